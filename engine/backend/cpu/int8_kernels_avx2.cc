// Two 256-bit registers per vector. Compiled with -mavx2 -mfma -mf16c, called only where the machine has them.
#include "engine/backend/cpu/int8_kernels.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

namespace gantry::engine::cpu {
namespace {

// 16 registers: three integer and three float sums of two registers each, and temporaries.
constexpr int kTilePanels = 1, kTileRows = 3;

struct Bytes {
  __m256i low, high;  // rows 0-7, 8-15
  static Bytes Load(const uint8_t* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
  }
  Bytes And(uint8_t mask) const {
    const __m256i m = _mm256_set1_epi8((char)mask);
    return {_mm256_and_si256(low, m), _mm256_and_si256(high, m)};
  }
  Bytes Or(const Bytes& other) const { return {_mm256_or_si256(low, other.low), _mm256_or_si256(high, other.high)}; }
  template <int kBits>
  Bytes ShiftRight() const {
    return {_mm256_srli_epi16(low, kBits), _mm256_srli_epi16(high, kBits)};
  }
  template <int kBits>
  Bytes ShiftLeft() const {
    return {_mm256_slli_epi16(low, kBits), _mm256_slli_epi16(high, kBits)};
  }
  void Store(uint8_t* p) const {
    _mm256_storeu_si256((__m256i*)p, low);
    _mm256_storeu_si256((__m256i*)(p + 32), high);
  }
};

struct Quad {
  __m256i lanes;
  static Quad Load(const int8_t* x) {
    int four;
    memcpy(&four, x, sizeof(four));
    return {_mm256_set1_epi32(four)};
  }
};

struct Floats {
  __m256 low, high;
  static Floats Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Floats Set(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Floats FromHalf(const uint8_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 16)))};
  }
  static Floats Mul(const Floats& a, const Floats& b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static Floats Fma(const Floats& a, const Floats& b, const Floats& c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  void Store(float* p, int rows) const {
    if (rows == 16) {
      _mm256_storeu_ps(p, low);
      _mm256_storeu_ps(p + 8, high);
      return;
    }
    float all[16];
    _mm256_storeu_ps(all, low);
    _mm256_storeu_ps(all + 8, high);
    memcpy(p, all, sizeof(float) * rows);
  }
};

// Pairs of u8 x s8 are added in 16 bits, saturating: safe for w <= 63 (2 * 63 * 128 < 2^15). Wide weights are cut into
// seven low bits and the top bit.
template <bool kWide>
inline __m256i DotHalf(__m256i acc, __m256i w, __m256i x) {
  const __m256i ones = _mm256_set1_epi16(1);
  if (!kWide) return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones));
  const __m256i low = _mm256_maddubs_epi16(_mm256_and_si256(w, _mm256_set1_epi8(0x7f)), x);
  const __m256i top = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(w, 7), _mm256_set1_epi8(1)), x);
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(low, ones));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(top, _mm256_set1_epi16(128)));
}

struct Ints {
  __m256i low, high;
  static Ints Set(int value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
  static Ints FromBytes(const uint8_t* p) {
    const __m128i all = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepu8_epi32(all), _mm256_cvtepu8_epi32(_mm_srli_si128(all, 8))};
  }
  static Ints FromSignedBytes(const uint8_t* p) {
    const __m128i all = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepi8_epi32(all), _mm256_cvtepi8_epi32(_mm_srli_si128(all, 8))};
  }
  static Ints Add(const Ints& a, const Ints& b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
  }
  static Ints Mul(const Ints& a, const Ints& b) {
    return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
  }
  Floats ToFloats() const { return {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)}; }
  template <bool kWide>
  static Ints Dot(const Ints& acc, const Bytes& w, const Quad& x) {
    return {DotHalf<kWide>(acc.low, w.low, x.lanes), DotHalf<kWide>(acc.high, w.high, x.lanes)};
  }
  static Ints Pairs(const uint8_t* p, const uint8_t* q) {
    const Ints a = FromBytes(p), b = FromBytes(q);
    return {_mm256_or_si256(a.low, _mm256_slli_epi32(b.low, 16)),
            _mm256_or_si256(a.high, _mm256_slli_epi32(b.high, 16))};
  }
  static Ints DotPairs(const Ints& acc, const Ints& pairs, const int16_t* x) {
    int two;
    memcpy(&two, x, sizeof(two));
    const __m256i all = _mm256_set1_epi32(two);
    return {_mm256_add_epi32(acc.low, _mm256_madd_epi16(pairs.low, all)),
            _mm256_add_epi32(acc.high, _mm256_madd_epi16(pairs.high, all))};
  }
};

inline __m128i Fold(__m256i v, __m128i (*add)(__m128i, __m128i)) {
  __m128i four = add(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  four = add(four, _mm_shuffle_epi32(four, 0x4e));
  return add(four, _mm_shuffle_epi32(four, 0xb1));
}
inline uint32_t LargestBits(const float* x, int n) {
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < n; i += 8) {
    const __m256i bits = _mm256_loadu_si256((const __m256i*)(x + i));
    largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)));
  }
  return (uint32_t)_mm_cvtsi128_si32(Fold(largest, [](__m128i a, __m128i b) { return _mm_max_epi32(a, b); }));
}
inline int Quantize16(const float* x, float inverse, int8_t* q) {
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), factor));
  const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), factor));
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  _mm_storeu_si128((__m128i*)q, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  return _mm_cvtsi128_si32(Fold(_mm256_add_epi32(low, high), [](__m128i a, __m128i b) { return _mm_add_epi32(a, b); }));
}

#include "engine/backend/cpu/int8_kernels-inl.h"

}  // namespace

const Int8Kernels& Avx2Int8Kernels() {
  static const Int8Kernels kernels = {"avx2", Int8MatMul, Quantize};
  return kernels;
}

}  // namespace gantry::engine::cpu
