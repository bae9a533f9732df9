// The inner loops of the CPU backend, one table per instruction set, chosen at run time.
//
// Accumulation contract (every path, every shape): a dot product of n terms runs in 16 float32 lanes; lane l takes
// terms l, l + 16, l + 32, ... in ascending order, each by one fused multiply-add; n is filled up to a multiple of 16
// with zero terms. The lanes are then added as ((l, l + 8), then (l, l + 4), then (l, l + 2), then (l, l + 1)). BF16
// and F16 weights are widened exactly. Error: |result - exact| <= (n / 16 + 5) * 2^-24 * sum |a_i b_i|, hence c = n /
// 16 + 5 in units of float32 rounding. exp is Exp of kernels-inl.h on every path: within 2 units in the last place on
// [-87, 88], clamped outside, NaN stays NaN.
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

enum class PlainType : uint8_t { kF32, kBF16, kF16 };
inline constexpr int64_t ElementBytes(PlainType type) {
  return type == PlainType::kF32 ? 4 : 2;
}

// [rows, columns] row-major.
struct WeightView {
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  PlainType type = PlainType::kF32;
};

// Slabs of one delta-net head: 16 value columns of the state each, run through consecutive tokens.
//   predicted = decay * (sum of k_i S_i);  d = beta (v - predicted);  S_i = fma(k_i, d, decay S_i);  out = sum of q_i
//   S_i
// Both sums run over the key dimension in four fused chains (i mod 4) that are added as (0 + 1) + (2 + 3).
struct DeltaSlab {
  float* state;  // [slabs, key_dim, 16]
  int slabs;     // 1 or 2: two keep enough chains going to hide the latency of the sums
  int key_dim;
  int tokens;
  const float* q;  // token t at q + t * q_stride; normalised and scaled
  const float* k;
  int64_t qk_stride;
  const float* v;  // 16 values a slab of token t at v + t * v_stride
  int64_t v_stride;
  const float* decay;  // exp(g) of token t at decay[t * gate_stride]
  const float* beta;
  int64_t gate_stride;
  float* out;  // 16 values a slab of token t at out + t * out_stride
  int64_t out_stride;
};

enum class KvFormat : uint8_t { kF32, kF16, kInt8 };

// One KV head's part of a page, laid out as kv_cache.h says.
struct KvHeadPage {
  KvFormat format;
  int head_dim;
  void* keys;
  void* values;
  float* key_scales;  // int8 only
  float* value_scales;
};

// Queries over one page, each folded into its running softmax:
//   score_j = scale * (sum over d ascending of q_d k_jd, fused)         (int8: the sum * key scale first)
//   max'    = max(max, scores);  fade = exp(max - max');  w_j = exp(score_j - max')
//   sum'    = sum * fade + sum of w in the 16 lanes of the contract, lane l taking positions l, l + 16, ...
//   acc'    = acc * fade, then fma(w_j, v_j, .) for j ascending         (int8: w_j * value scale for w_j)
// The bits of a query do not depend on the others.
struct AttentionPage {
  KvHeadPage kv;
  float scale;
  int queries;
  const float* const* query;  // [queries], head_dim each
  const int* count;           // [queries]: positions of the page that the query sees, at least 1
  int most;                   // the largest of them
  int skip;                   // of those, the first ones that nobody sees; less than every count
  const void* next_keys;      // of the page that comes after, to be asked for in time; null: none
  float* max;                 // [queries]; -inf before the first page
  float* sum;                 // [queries]; 0
  float* acc;                 // query i at acc + i * acc_stride: [padded head_dim]; 0
  int64_t acc_stride;
};

// Another stretch of positions of the same query, folded on its own.
struct AttentionState {
  float* max;
  float* sum;
  float* acc;  // [padded head_dim]
};

struct Kernels {
  const char* name;  // "scalar", "avx2", "avx512"
  // y[i][row] = w[row] . x[i] for rows [begin, end) and i in [0, count).
  void (*matmul)(const WeightView& w, int64_t begin, int64_t end, const float* const* x, int count, float* const* y);
  float (*dot)(const float* a, const float* b, int64_t n);  // n a multiple of 16
  // x += delta; y = x * rsqrt(mean x^2 + eps) * weight. Only n values are written.
  void (*add_norm)(float* x, const float* delta, const float* weight, int64_t n, float eps, float* y);
  // y = x * rsqrt(mean x^2 + eps) * weight; y may be x. Only n values are written.
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* y);
  // gate = silu(gate) * up.
  void (*silu_mul)(float* gate, const float* up, int64_t n);
  // out[c] = silu(sum_j weights[j][c] * inputs[j][c]), j ascending, c in [0, channels); weights[j] at weights + j *
  // stride.
  void (*convolve_silu)(const float* const* inputs, int taps, const float* weights, int64_t stride, int64_t channels,
                        float* out);
  // out = weight * (x * rsqrt(mean x^2 + eps)) * silu(gate).
  void (*gated_norm)(const float* x, const float* gate, const float* weight, int64_t n, float eps, float* out);
  // out = out * factor * sigmoid(gate); gate may be null: out * factor.
  void (*gate_by_sigmoid)(float* out, float factor, const float* gate, int64_t n);
  // sum = fma(factor, y, sum).
  void (*add_weighted)(float* sum, float factor, const float* y, int64_t n);
  void (*delta_slab)(const DeltaSlab& slab);
  // Turns the pairs (x[p], x[p + half]) by the angles whose cosines and sines are given, p in [0, half).
  void (*rotate)(float* x, int half, const float* cosine, const float* sine);
  // Position `at` of a page: [head_dim] keys and values, rounded or quantised.
  void (*write_kv)(const KvHeadPage& page, int at, const float* key, const float* value);
  void (*attend_page)(const AttentionPage& page);
  // into = into and next: both faded to the larger maximum, then added; into's product rounded, next's fused.
  void (*merge_attention)(const AttentionState& into, const AttentionState& next, int head_dim);
};

const Kernels& ScalarKernels();
const Kernels& Avx2Kernels();    // needs AVX2 and FMA
const Kernels& Avx512Kernels();  // needs AVX-512 F, BW, VL

}  // namespace gantry::engine::cpu
