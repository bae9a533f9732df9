#include <cstdlib>
#include <cstring>

#include "engine/backend/cpu/kernels.h"

namespace gantry::engine::cpu {

const Kernels* ChooseKernels() {
  const char* wanted = std::getenv("GANTRY_CPU_ISA");
  const auto asked = [wanted](const char* name) { return wanted == nullptr || std::strcmp(wanted, name) == 0; };
#if defined(__x86_64__)
  if (asked("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    return &Avx512Kernels();
  }
  if (asked("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &Avx2Kernels();
#endif
  return asked("scalar") ? &ScalarKernels() : nullptr;
}

}  // namespace gantry::engine::cpu
