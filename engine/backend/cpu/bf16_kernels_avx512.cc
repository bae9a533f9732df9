// Widened to float32, one 512-bit register per vector, for machines without the bfloat16 dot product. Compiled with
// -mavx512f, called only where the machine has it.
#include "engine/backend/cpu/bf16_kernels.h"

#include <immintrin.h>
#include <string.h>

namespace gantry::engine::cpu {
namespace {

constexpr int kTilePanels = 2, kTileRows = 6, kTilePanelsOne = 4;
constexpr bool kFlushes = false;

inline __m512 Even(__m512i words) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}
inline __m512 Odd(__m512i words) {
  return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000)));
}

struct Pairs {
  __m512 even, odd;
  static Pairs Load(const uint8_t* p) {
    const __m512i words = _mm512_loadu_si512(p);
    return {Even(words), Odd(words)};
  }
};
struct Pair {
  __m512 even, odd;
  static Pair Load(const uint16_t* p) {
    int two;
    memcpy(&two, p, sizeof(two));
    const __m512i words = _mm512_set1_epi32(two);
    return {Even(words), Odd(words)};
  }
};
struct Sums {
  __m512 lanes;
  static Sums Zero() { return {_mm512_setzero_ps()}; }
  static Sums Dot(const Sums& sums, const Pairs& w, const Pair& x) {
    return {_mm512_fmadd_ps(w.even, x.even, _mm512_fmadd_ps(w.odd, x.odd, sums.lanes))};
  }
  void Store(float* p, int rows) const { _mm512_mask_storeu_ps(p, (__mmask16)((1u << rows) - 1), lanes); }
};

#include "engine/backend/cpu/bf16_kernels-inl.h"

}  // namespace

const Bf16Kernels& Avx512Bf16Kernels() {
  static const Bf16Kernels kernels = {"avx512", Bf16MatMul, RoundToBf16};
  return kernels;
}

}  // namespace gantry::engine::cpu
