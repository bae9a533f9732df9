// The inner loops of the CPU backend, one table per instruction set, chosen at run time.
//
// Accumulation contract (every path, every shape): a dot product of n terms runs in 16 float32 lanes; lane l takes
// terms l, l + 16, l + 32, ... in ascending order, each by one fused multiply-add; n is filled up to a multiple of 16
// with zero terms. The lanes are then added as ((l, l + 8), then (l, l + 4), then (l, l + 2), then (l, l + 1)). BF16
// weights are widened exactly. Error: |result - exact| <= (n / 16 + 5) * 2^-24 * sum |a_i b_i|, hence c = n / 16 + 5 in
// units of float32 rounding. exp is libm's expf on every path.
//
// Activations are rows of `stride` floats, stride a multiple of 16, zero beyond their n values. Weights need no
// padding.
#pragma once

#include <cstdint>

#include "engine/base/numeric.h"

namespace gantry::engine::cpu {

inline constexpr int kLanes = 16;
inline constexpr int64_t PaddedTo16(int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

// [rows, columns] row-major, float32 or BF16.
struct WeightView {
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  bool bf16 = false;
};

// One delta-net head's slab: 16 value columns of the state, run through consecutive tokens.
struct DeltaSlab {
  float* state;  // [key_dim, 16]
  int key_dim;
  int tokens;
  const float* q;  // token t at q + t * q_stride; normalised and scaled
  const float* k;
  int64_t qk_stride;
  const float* v;  // 16 values of token t at v + t * v_stride
  int64_t v_stride;
  const float* decay;  // exp(g) of token t at decay[t * gate_stride]
  const float* beta;
  int64_t gate_stride;
  float* out;  // 16 values of token t at out + t * out_stride
  int64_t out_stride;
};

// One query head over the KV rows of one page, folded into a running softmax.
struct AttentionPage {
  const float* query;  // [head_dim], zero-padded to a multiple of 16
  const float* keys;   // row j at keys + j * stride
  const float* values;
  int64_t stride;
  int count;  // rows of this page that the query sees
  int head_dim;
  float scale;
  float* max;  // running maximum; -inf before the first page
  float* sum;  // running sum of exp(score - max)
  float* acc;  // [head_dim] running weighted values
};

struct Kernels {
  const char* name;  // "scalar", "avx2", "avx512"
  // y[i][row] = w[row] . x[i] for rows [begin, end) and i in [0, count).
  void (*matmul)(const WeightView& w, int64_t begin, int64_t end, const float* const* x, int count, float* const* y);
  float (*dot)(const float* a, const float* b, int64_t n);  // n a multiple of 16
  void (*delta_slab)(const DeltaSlab& slab);
  void (*attend_page)(const AttentionPage& page);
};

const Kernels& ScalarKernels();
const Kernels& Avx2Kernels();    // needs AVX2 and FMA
const Kernels& Avx512Kernels();  // needs AVX-512 F, BW, VL

// The best this machine has, or what GANTRY_CPU_ISA (scalar, avx2, avx512) asks for; null when that is not to be had.
const Kernels* ChooseKernels();

}  // namespace gantry::engine::cpu
