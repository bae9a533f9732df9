// Two 8-lane registers per vector. Compiled with -mavx2 -mfma -mf16c, called only where the machine has them.
#include "engine/backend/cpu/kernels.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

namespace gantry::engine::cpu {
namespace {

// 16 registers: 2 x 2 tiles take 8 accumulators, 4 weights and 2 values.
constexpr int kTileRows = 2, kTileRowsOne = 4, kTileColumns = 2;
constexpr int kQueryTile = 2, kVectorTile = 2;

struct Vec {
  __m256 low, high;  // lanes 0-7, 8-15

  static Vec Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec Broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Vec Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Vec LoadTail(const float* p, int64_t n) {
    float padded[16] = {};
    memcpy(padded, p, sizeof(float) * n);
    return Load(padded);
  }
  static Vec LoadBf16(const uint16_t* p) {
    const __m128i a = _mm_loadu_si128((const __m128i*)p), b = _mm_loadu_si128((const __m128i*)(p + 8));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(b), 16))};
  }
  static Vec LoadBf16Tail(const uint16_t* p, int64_t n) {
    uint16_t padded[16] = {};
    memcpy(padded, p, sizeof(uint16_t) * n);
    return LoadBf16(padded);
  }
  static Vec LoadHalf(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
  }
  static Vec LoadInt8(const int8_t* p) {
    const __m128i all = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(all, 8)))};
  }
  static Vec Fma(const Vec& a, const Vec& b, const Vec& c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static Vec Mul(const Vec& a, const Vec& b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static Vec Add(const Vec& a, const Vec& b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Vec Sub(const Vec& a, const Vec& b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static Vec Div(const Vec& a, const Vec& b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static Vec Max(const Vec& a, const Vec& b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
  static Vec Min(const Vec& a, const Vec& b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  Vec PowerOfTwo() const { return {PowerOfTwoHalf(low), PowerOfTwoHalf(high)}; }
  static __m256 PowerOfTwoHalf(__m256 t) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(t), 23), _mm256_set1_epi32(0x3f800000)));
  }
  void StoreTail(float* p, int64_t n) const {
    float all[16];
    Store(all);
    memcpy(p, all, sizeof(float) * n);
  }
  void Store(float* p) const {
    _mm256_storeu_ps(p, low);
    _mm256_storeu_ps(p + 8, high);
  }
  void StoreHalf(uint16_t* p) const {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  float ReduceMax() const {
    const __m256 eight = _mm256_max_ps(low, high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  float Reduce() const {
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
};

#include "engine/backend/cpu/kernels-inl.h"

}  // namespace

const Kernels& Avx2Kernels() {
  static const Kernels kernels = {"avx2",       MatMul,       Dot,       AddNorm,       RmsNorm,
                                  SiluMul,      ConvolveSilu, GatedNorm, GateBySigmoid, AddWeighted,
                                  RunDeltaSlab, Rotate,       WriteKv,   AttendPage,    MergeAttention};
  return kernels;
}

}  // namespace gantry::engine::cpu
