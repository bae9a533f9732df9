// Tests that have a full length beside the one that suits every day.
#pragma once

#include <cstdlib>

namespace gantry::engine {

// Whether this is a run at full length (gantry_long_test in cmake/GantryTargets.cmake; `./dev test --all`).
inline bool LongTests() {
  return std::getenv("GANTRY_LONG_TESTS") != nullptr;
}

}  // namespace gantry::engine
