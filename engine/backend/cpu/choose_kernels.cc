#include <cstdlib>
#include <cstring>

#include "engine/backend/cpu/weights.h"

namespace gantry::engine::cpu {

std::optional<KernelSet> ChooseKernels() {
  const char* wanted = std::getenv("GANTRY_CPU_ISA");
  const auto asked = [wanted](const char* name) { return wanted == nullptr || std::strcmp(wanted, name) == 0; };
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (asked("avx512") && avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    // Processors before VNNI multiply bytes in 256 bits; the bits of the result are the same.
    const bool vnni = __builtin_cpu_supports("avx512vnni");
    return KernelSet{&Avx512Kernels(), vnni ? &Avx512Int8Kernels() : &Avx2Int8Kernels()};
  }
  if (asked("avx2") && avx2) return KernelSet{&Avx2Kernels(), &Avx2Int8Kernels()};
#endif
  if (asked("scalar")) return KernelSet{&ScalarKernels(), &ScalarInt8Kernels()};
  return std::nullopt;
}

}  // namespace gantry::engine::cpu
