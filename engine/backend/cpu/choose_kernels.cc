#include <cstdlib>
#include <cstring>

#include "engine/backend/cpu/kernel_set.h"

namespace gantry::engine::cpu {

std::optional<KernelSet> ChooseKernels() {
  const char* wanted = std::getenv("GANTRY_CPU_ISA");
  const auto asked = [wanted](const char* name) { return wanted == nullptr || std::strcmp(wanted, name) == 0; };
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (asked("avx512") && avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    // Processors before VNNI multiply bytes in 256 bits, those before BF16 widen; the bits of the result are the same.
    const bool vnni = __builtin_cpu_supports("avx512vnni"), bf16 = __builtin_cpu_supports("avx512bf16");
    return KernelSet{&Avx512Kernels(), vnni ? &Avx512Int8Kernels() : &Avx2Int8Kernels(),
                     bf16 ? &Avx512DotBf16Kernels() : &Avx512Bf16Kernels()};
  }
  if (asked("avx2") && avx2) return KernelSet{&Avx2Kernels(), &Avx2Int8Kernels(), &Avx2Bf16Kernels()};
#endif
  if (asked("scalar")) return KernelSet{&ScalarKernels(), &ScalarInt8Kernels(), &ScalarBf16Kernels()};
  return std::nullopt;
}

}  // namespace gantry::engine::cpu
