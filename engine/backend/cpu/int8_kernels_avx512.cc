// One 512-bit register per vector, VNNI dot products. Compiled with -mavx512f -mavx512bw -mavx512vl -mavx512vnni,
// called only where the machine has them.
#include "engine/backend/cpu/int8_kernels.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

namespace gantry::engine::cpu {
namespace {

// 32 registers: 12 integer and 12 float sums, two weights, an activation, and temporaries. 12 chains hide the four or
// five cycles of a dot product on two ports.
constexpr int kTilePanels = 2, kTileRows = 6;

struct Bytes {
  __m512i lanes;
  static Bytes Load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  Bytes And(uint8_t mask) const { return {_mm512_and_si512(lanes, _mm512_set1_epi8((char)mask))}; }
  Bytes Or(const Bytes& other) const { return {_mm512_or_si512(lanes, other.lanes)}; }
  template <int kBits>
  Bytes ShiftRight() const {
    return {_mm512_srli_epi16(lanes, kBits)};
  }
  template <int kBits>
  Bytes ShiftLeft() const {
    return {_mm512_slli_epi16(lanes, kBits)};
  }
  void Store(uint8_t* p) const { _mm512_storeu_si512(p, lanes); }
};

struct Quad {
  __m512i lanes;
  static Quad Load(const int8_t* x) {
    int four;
    memcpy(&four, x, sizeof(four));
    return {_mm512_set1_epi32(four)};
  }
};

struct Floats {
  __m512 lanes;
  static Floats Zero() { return {_mm512_setzero_ps()}; }
  static Floats Set(float value) { return {_mm512_set1_ps(value)}; }
  static Floats FromHalf(const uint8_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
  static Floats Mul(const Floats& a, const Floats& b) { return {_mm512_mul_ps(a.lanes, b.lanes)}; }
  static Floats Fma(const Floats& a, const Floats& b, const Floats& c) {
    return {_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes)};
  }
  void Store(float* p, int rows) const { _mm512_mask_storeu_ps(p, (__mmask16)((1u << rows) - 1), lanes); }
};

struct Ints {
  __m512i lanes;
  static Ints Set(int value) { return {_mm512_set1_epi32(value)}; }
  static Ints FromBytes(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
  static Ints FromSignedBytes(const uint8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
  static Ints Add(const Ints& a, const Ints& b) { return {_mm512_add_epi32(a.lanes, b.lanes)}; }
  static Ints Mul(const Ints& a, const Ints& b) { return {_mm512_mullo_epi32(a.lanes, b.lanes)}; }
  Floats ToFloats() const { return {_mm512_cvtepi32_ps(lanes)}; }
  template <bool kWide>
  static Ints Dot(const Ints& acc, const Bytes& w, const Quad& x) {
    return {_mm512_dpbusd_epi32(acc.lanes, w.lanes, x.lanes)};
  }
  static Ints Pairs(const uint8_t* p, const uint8_t* q) {
    return {_mm512_or_si512(FromBytes(p).lanes, _mm512_slli_epi32(FromBytes(q).lanes, 16))};
  }
  static Ints DotPairs(const Ints& acc, const Ints& pairs, const int16_t* x) {
    int two;
    memcpy(&two, x, sizeof(two));
    return {_mm512_dpwssd_epi32(acc.lanes, pairs.lanes, _mm512_set1_epi32(two))};
  }
};

inline uint32_t LargestBits(const float* x, int n) {
  __m512i largest = _mm512_setzero_si512();
  for (int i = 0; i < n; i += 16) {
    const __m512i bits = _mm512_and_si512(_mm512_loadu_si512(x + i), _mm512_set1_epi32(0x7fffffff));
    largest = _mm512_max_epi32(largest, bits);
  }
  return (uint32_t)_mm512_reduce_max_epi32(largest);
}
inline int Quantize16(const float* x, float inverse, int8_t* q) {
  const __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(inverse)));
  _mm_storeu_si128((__m128i*)q, _mm512_cvtepi32_epi8(integers));
  return _mm512_reduce_add_epi32(integers);
}

#include "engine/backend/cpu/int8_kernels-inl.h"

}  // namespace

const Int8Kernels& Avx512Int8Kernels() {
  static const Int8Kernels kernels = {"avx512", Int8MatMul, Quantize};
  return kernels;
}

}  // namespace gantry::engine::cpu
