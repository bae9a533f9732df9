// One 16-lane register per vector. Compiled with -mavx512f -mavx512bw -mavx512vl, called only where the machine has
// them.
#include "engine/backend/cpu/kernels.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

namespace gantry::engine::cpu {
namespace {

// 32 registers: 4 x 5 tiles take 20 accumulators, 4 weights and a value.
constexpr int kTileRows = 4, kTileRowsOne = 8, kTileColumns = 5;
constexpr int kQueryTile = 4, kVectorTile = 4;

struct Vec {
  __m512 lanes;

  static Vec Zero() { return {_mm512_setzero_ps()}; }
  static Vec Broadcast(float value) { return {_mm512_set1_ps(value)}; }
  static Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec LoadTail(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p)}; }
  static Vec LoadBf16(const uint16_t* p) { return Widen(_mm256_loadu_si256((const __m256i*)p)); }
  static Vec LoadBf16Tail(const uint16_t* p, int64_t n) {
    return Widen(_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
  }
  static Vec LoadHalf(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
  static Vec LoadInt8(const int8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
  }
  static Vec Widen(__m256i bits) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))}; }
  static Vec Fma(const Vec& a, const Vec& b, const Vec& c) { return {_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes)}; }
  static Vec Mul(const Vec& a, const Vec& b) { return {_mm512_mul_ps(a.lanes, b.lanes)}; }
  static Vec Add(const Vec& a, const Vec& b) { return {_mm512_add_ps(a.lanes, b.lanes)}; }
  static Vec Sub(const Vec& a, const Vec& b) { return {_mm512_sub_ps(a.lanes, b.lanes)}; }
  static Vec Div(const Vec& a, const Vec& b) { return {_mm512_div_ps(a.lanes, b.lanes)}; }
  static Vec Max(const Vec& a, const Vec& b) { return {_mm512_max_ps(a.lanes, b.lanes)}; }
  static Vec Min(const Vec& a, const Vec& b) { return {_mm512_min_ps(a.lanes, b.lanes)}; }
  Vec PowerOfTwo() const {
    return {_mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(lanes), 23), _mm512_set1_epi32(0x3f800000)))};
  }
  void Store(float* p) const { _mm512_storeu_ps(p, lanes); }
  void StoreTail(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), lanes); }
  void StoreHalf(uint16_t* p) const {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  float ReduceMax() const { return _mm512_reduce_max_ps(lanes); }
  float Reduce() const {
    const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(lanes), 1));
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
};

#include "engine/backend/cpu/kernels-inl.h"

}  // namespace

const Kernels& Avx512Kernels() {
  static const Kernels kernels = {"avx512",     MatMul,       Dot,       AddNorm,       RmsNorm,
                                  SiluMul,      ConvolveSilu, GatedNorm, GateBySigmoid, AddWeighted,
                                  RunDeltaSlab, Rotate,       WriteKv,   AttendPage,    MergeAttention};
  return kernels;
}

}  // namespace gantry::engine::cpu
