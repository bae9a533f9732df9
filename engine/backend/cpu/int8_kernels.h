// Products of block-quantised weights with activations quantised to int8: the integer dot-product path.
//
// Accumulation contract, one lane per weight row, obeyed bit for bit on every path (scalar, AVX2, AVX-512 VNNI), for
// any number of activation rows and threads. Integers are exact; floats are float32, every fma fused, every product
// rounded once, blocks in ascending order:
//
//   block types (Q8_0, Q4_0, Q4_1), activations per 32 elements:
//     y = 0;  for block b:  y = fma(float(sum w_i x_i), d_b * dx_b, y);  Q4_1 then:  y = fma(m_b, sx_b, y)
//     where dx_b and sx_b = dx_b * float(sum x_i) are rounded to 11 significant bits after x was quantised, as the
//     engines that these block types come from do: the same file then says the same
//   super-block types (Q4_K, Q5_K, Q6_K), activations per 256 elements:
//     y = 0;  for super-block b:  y = fma(float(sum_g sc_g sum_i w_i x_i), d_b * dx_b, y);
//     Q4_K and Q5_K then:  y = fma(-float(sum_g m_g sum_i x_i), dmin_b * dx_b, y)
//
// where w are the stored integers (Q8_0: -128..127, Q4_0: -8..7, Q6_K: -32..31), and d, m the stored half floats
// widened. Error against the exact product of the dequantised weights with the unquantised activations: rounding of the
// activations, |x - dx q| <= dx / 2 (and 2^-11 |x| for the rounded scale), so <= sum_b (dx_b / 2) sum |w_i| + 2^-11 sum
// |w_i x_i|, plus (blocks + 2) * 2^-24 * sum |w_i x_i|.
//
// Packed weights: panels of 16 rows, K in blocks; 64-byte vectors hold 4 consecutive elements of each of the 16 rows.
// The bytes are those of the file, in another order (packed_matrix.cc); missing rows of the last panel are zero.
#pragma once

#include <cstdint>

#include "engine/backend/cpu/packed_view.h"

namespace gantry::engine::cpu {

// Activations in int8, one record per block of a row: everything that a product needs of it lies together, so that a
// row is one address and every path reads sums in the form it multiplies them in. A block with a NaN or infinity has
// scale NaN and zeros.
struct ActivationBlock32 {
  float scale;
  float scaled_sum;          // scale * sum of q, before the scale was rounded, then rounded itself
  int32_t minus_sum_by_8;    // -8 * sum of q: the offset of Q4_0
  int32_t minus_sum_by_128;  // likewise of Q8_0
  int8_t q[32];
};
struct ActivationBlock256 {
  int8_t q[256];
  int32_t minus_sum16_by_32[16];  // -32 * sum of 16 elements: the offset of Q6_K
  int16_t minus_sum32[8];         // -1 * sum of 32 elements: what the minima of Q4_K and Q5_K multiply
  float scale;
  float unused[3];
};
static_assert(sizeof(ActivationBlock32) == 48 && sizeof(ActivationBlock256) == 352);

// Bytes of one row in this form.
inline constexpr int64_t ActivationBytes(ActivationForm form, int64_t columns) {
  switch (form) {
    case ActivationForm::kFloat:
      return columns * static_cast<int64_t>(sizeof(float));
    case ActivationForm::kInt8By32:
      return columns / 32 * static_cast<int64_t>(sizeof(ActivationBlock32));
    case ActivationForm::kInt8By256:
      return columns / 256 * static_cast<int64_t>(sizeof(ActivationBlock256));
    case ActivationForm::kBF16:
      return columns * 2;
  }
  return 0;
}

struct Int8Kernels {
  const char* name;
  // y[i][row] for the rows of panels [begin, end) and activation rows [0, count). Rows beyond w.rows are not written.
  // `next`: weights that the caller will multiply after these, asked for from memory while the last of these are read,
  // so that the stream does not break; null where there are none or they lie behind these.
  void (*matmul)(const PackedView& w, int64_t begin, int64_t end, const ActivationRow* x, int count, float* const* y,
                 const uint8_t* next);
  // The records of x [columns], `block` (32 or 256) elements each; columns a multiple of block.
  void (*quantize)(const float* x, int64_t columns, int block, void* blocks);
};

const Int8Kernels& ScalarInt8Kernels();
const Int8Kernels& Avx2Int8Kernels();    // needs AVX2, FMA, F16C
const Int8Kernels& Avx512Int8Kernels();  // needs AVX-512 F, BW, VL, VNNI

}  // namespace gantry::engine::cpu
