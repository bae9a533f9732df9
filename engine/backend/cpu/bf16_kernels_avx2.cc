// Widened to float32, two 8-lane registers per vector. Compiled with -mavx2 -mfma, called only where the machine has
// them.
#include "engine/backend/cpu/bf16_kernels.h"

#include <immintrin.h>
#include <string.h>

namespace gantry::engine::cpu {
namespace {

// 16 registers: 8 sums, 4 of weights, 2 of an activation.
constexpr int kTilePanels = 1, kTileRows = 4, kTilePanelsOne = 2;
constexpr bool kFlushes = false;

inline __m256 Even(__m256i words) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
inline __m256 Odd(__m256i words) {
  return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xffff0000)));
}

struct Pairs {
  __m256 even[2], odd[2];
  static Pairs Load(const uint8_t* p) {
    const __m256i a = _mm256_loadu_si256((const __m256i*)p), b = _mm256_loadu_si256((const __m256i*)(p + 32));
    return {{Even(a), Even(b)}, {Odd(a), Odd(b)}};
  }
};
struct Pair {
  __m256 even, odd;
  static Pair Load(const uint16_t* p) {
    int two;
    memcpy(&two, p, sizeof(two));
    const __m256i words = _mm256_set1_epi32(two);
    return {Even(words), Odd(words)};
  }
};
struct Sums {
  __m256 low, high;
  static Sums Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Sums Dot(const Sums& sums, const Pairs& w, const Pair& x) {
    return {_mm256_fmadd_ps(w.even[0], x.even, _mm256_fmadd_ps(w.odd[0], x.odd, sums.low)),
            _mm256_fmadd_ps(w.even[1], x.even, _mm256_fmadd_ps(w.odd[1], x.odd, sums.high))};
  }
  void Store(float* p, int rows) const {
    float all[16];
    _mm256_storeu_ps(all, low);
    _mm256_storeu_ps(all + 8, high);
    memcpy(p, all, sizeof(float) * rows);
  }
};

#include "engine/backend/cpu/bf16_kernels-inl.h"

}  // namespace

const Bf16Kernels& Avx2Bf16Kernels() {
  static const Bf16Kernels kernels = {"avx2", Bf16MatMul, RoundToBf16};
  return kernels;
}

}  // namespace gantry::engine::cpu
