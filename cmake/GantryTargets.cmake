# One library per folder, explicit sources, dependencies declared where the library is declared.
#
#   gantry_library(NAME engine_text SOURCES a.cc b.cc DEPS engine_base absl::status)
#   gantry_test(NAME engine_text_test SOURCES a_test.cc DEPS engine_text [LABELS long] [TIMEOUT seconds])
#   gantry_long_test(NAME engine_text_long_test OF engine_text_test CASES "Tokenizer.*" TIMEOUT seconds)
#   gantry_binary(NAME gantry-engine SOURCES main.cc DEPS ...)
#   gantry_fuzzer(NAME json_fuzzer SOURCES json_fuzzer.cc DEPS ...)     (built by clang only; `./dev fuzz`)
#
# Library NAME is the folder's path with underscores. Includes are written from the repository root.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
# Invariants (CHECK) stay on in release; assert() is not used for them.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1 -DNDEBUG")

find_program(GANTRY_CCACHE ccache)
if(GANTRY_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${GANTRY_CCACHE}")
  set(CMAKE_C_COMPILER_LAUNCHER "${GANTRY_CCACHE}")
endif()

add_library(gantry_flags INTERFACE)
target_include_directories(gantry_flags INTERFACE "${CMAKE_SOURCE_DIR}")
target_compile_options(gantry_flags INTERFACE
  -Wall -Wextra -Wno-missing-field-initializers -Wshadow -Wnon-virtual-dtor -Wimplicit-fallthrough -Wvla
  # Floating point is a promise: no contraction that the source does not spell out.
  -ffp-contract=off)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(gantry_flags INTERFACE -Wthread-safety)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # g++ 12 sees overlapping copies inside std::string where there are none (GCC bug 105651).
  target_compile_options(gantry_flags INTERFACE -Wno-restrict)
  if(GANTRY_SANITIZE)
    # ... and loses sight of a coroutine frame's operator new once calls are instrumented.
    target_compile_options(gantry_flags INTERFACE -Wno-mismatched-new-delete)
  endif()
endif()
if(GANTRY_WERROR)
  target_compile_options(gantry_flags INTERFACE -Werror)
endif()
if(GANTRY_SANITIZE STREQUAL "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Boost.Asio has fences, which the sanitizer cannot see and g++ warns about; its mutexes order the same accesses.
  target_compile_options(gantry_flags INTERFACE -Wno-tsan)
endif()
if(GANTRY_SANITIZE)
  target_compile_options(gantry_flags INTERFACE -fsanitize=${GANTRY_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(gantry_flags INTERFACE -fsanitize=${GANTRY_SANITIZE})
endif()

function(gantry_library)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(${ARG_NAME} STATIC ${ARG_SOURCES})
    target_link_libraries(${ARG_NAME} PUBLIC gantry_flags ${ARG_DEPS})
  else()
    add_library(${ARG_NAME} INTERFACE)
    target_link_libraries(${ARG_NAME} INTERFACE gantry_flags ${ARG_DEPS})
  endif()
endfunction()

function(gantry_binary)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE gantry_flags ${ARG_DEPS})
endfunction()

# Every test binary leaves a JUnit file in test-results/; `./dev test` sums them. The label `long`
# keeps a test out of the default run (`./dev test --all` runs it).
function(gantry_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SOURCES})
  target_link_libraries(${ARG_NAME} PRIVATE gantry_flags ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${ARG_NAME} PRIVATE GANTRY_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  add_test(NAME ${ARG_NAME}
    COMMAND ${ARG_NAME} --gtest_output=xml:${CMAKE_BINARY_DIR}/test-results/${ARG_NAME}.xml
    WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${ARG_NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()

# Cases of a test program once more at their full length: GANTRY_LONG_TESTS is set, which the program asks
# LongTests() (engine/base/long_test_util.h) for. Under the label `long`.
function(gantry_long_test)
  cmake_parse_arguments(ARG "" "NAME;OF;CASES;TIMEOUT" "" ${ARGN})
  add_test(NAME ${ARG_NAME}
    COMMAND ${ARG_OF} --gtest_filter=${ARG_CASES}
            --gtest_output=xml:${CMAKE_BINARY_DIR}/test-results/${ARG_NAME}.xml
    WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}")
  set_tests_properties(${ARG_NAME} PROPERTIES
    TIMEOUT ${ARG_TIMEOUT} LABELS long ENVIRONMENT "GANTRY_LONG_TESTS=1")
endfunction()

function(gantry_fuzzer)
  cmake_parse_arguments(ARG "" "NAME" "SOURCES;DEPS" ${ARGN})
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    add_executable(${ARG_NAME} ${ARG_SOURCES})
    target_link_libraries(${ARG_NAME} PRIVATE gantry_flags ${ARG_DEPS})
    target_compile_definitions(${ARG_NAME} PRIVATE GANTRY_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    target_compile_options(${ARG_NAME} PRIVATE -fsanitize=fuzzer)
    target_link_options(${ARG_NAME} PRIVATE -fsanitize=fuzzer)
  endif()
endfunction()
