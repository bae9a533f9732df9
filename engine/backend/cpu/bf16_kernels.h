// Products of BF16 weights with activations rounded to bfloat16.
//
// Accumulation contract, one lane per weight row, obeyed bit for bit on every path (scalar, AVX2, AVX-512 with and
// without its bfloat16 dot product), for any number of activation rows and threads:
//
//   y = 0;  for columns 2 p and 2 p + 1, p ascending:  y = fma(w[2 p + 1], x[2 p + 1], y);  y = fma(w[2 p], x[2 p], y)
//
// in float32, where denormal inputs count as zero and denormal results become zero: what VDPBF16PS does. x is rounded
// to nearest even, to 8 significant bits; NaN stays NaN. Error against the exact product with the unrounded x: <= (2^-9
// + columns * 2^-24) * sum |w_i x_i|.
//
// Packed weights: panels of 16 rows; 64-byte vectors hold two consecutive elements of each of the 16 rows.
#pragma once

#include <cstdint>

#include "engine/backend/cpu/packed_view.h"

namespace gantry::engine::cpu {

struct Bf16Kernels {
  const char* name;
  // y[i][row] for the rows of panels [begin, end) and activation rows [0, count), which are bfloat16. Rows beyond
  // w.rows are not written.
  void (*matmul)(const PackedView& w, int64_t begin, int64_t end, const ActivationRow* x, int count, float* const* y);
  void (*round)(const float* x, int64_t n, uint16_t* out);
};

const Bf16Kernels& ScalarBf16Kernels();
const Bf16Kernels& Avx2Bf16Kernels();       // needs AVX2, FMA
const Bf16Kernels& Avx512Bf16Kernels();     // needs AVX-512 F
const Bf16Kernels& Avx512DotBf16Kernels();  // needs AVX-512 F, BF16

}  // namespace gantry::engine::cpu
