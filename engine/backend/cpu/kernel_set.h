// The kernels of one instruction set, and the forms of activations that they multiply.
#pragma once

#include <optional>

#include "engine/backend/cpu/bf16_kernels.h"
#include "engine/backend/cpu/int8_kernels.h"
#include "engine/backend/cpu/kernels.h"

namespace gantry::engine::cpu {

struct KernelSet {
  const Kernels* floats = nullptr;
  const Int8Kernels* ints = nullptr;
  const Bf16Kernels* halves = nullptr;

  // x [columns] in another form than kFloat, to `out`, ActivationBytes long; columns a multiple of the form's unit.
  void Convert(ActivationForm form, const float* x, int64_t columns, void* out) const {
    if (form == ActivationForm::kBF16) return halves->round(x, columns, static_cast<uint16_t*>(out));
    ints->quantize(x, columns, UnitOf(form), out);
  }
};

// The best this machine has, or what GANTRY_CPU_ISA (scalar, avx2, avx512) asks for; nothing when that is not to be
// had.
std::optional<KernelSet> ChooseKernels();

}  // namespace gantry::engine::cpu
