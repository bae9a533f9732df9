// The bfloat16 dot product of the machine. Compiled with -mavx512f -mavx512bf16, called only where the machine has
// them.
#include "engine/backend/cpu/bf16_kernels.h"

#include <immintrin.h>
#include <string.h>

namespace gantry::engine::cpu {
namespace {

// 32 registers: 24 sums, 4 of weights, and an activation.
constexpr int kTilePanels = 4, kTileRows = 6, kTilePanelsOne = 4;
constexpr bool kFlushes = true;

struct Pairs {
  __m512bh lanes;
  static Pairs Load(const uint8_t* p) { return {(__m512bh)_mm512_loadu_si512(p)}; }
};
struct Pair {
  __m512bh lanes;
  static Pair Load(const uint16_t* p) {
    int two;
    memcpy(&two, p, sizeof(two));
    return {(__m512bh)_mm512_set1_epi32(two)};
  }
};
struct Sums {
  __m512 lanes;
  static Sums Zero() { return {_mm512_setzero_ps()}; }
  static Sums Dot(const Sums& sums, const Pairs& w, const Pair& x) {
    return {_mm512_dpbf16_ps(sums.lanes, w.lanes, x.lanes)};
  }
  void Store(float* p, int rows) const { _mm512_mask_storeu_ps(p, (__mmask16)((1u << rows) - 1), lanes); }
};

#include "engine/backend/cpu/bf16_kernels-inl.h"

}  // namespace

const Bf16Kernels& Avx512DotBf16Kernels() {
  static const Bf16Kernels kernels = {"avx512-bf16", Bf16MatMul, RoundToBf16};
  return kernels;
}

}  // namespace gantry::engine::cpu
