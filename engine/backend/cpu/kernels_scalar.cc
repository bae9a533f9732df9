// The contract in plain C++: what runs where there is no AVX2, and what the others are compared with.
#include "engine/backend/cpu/kernels.h"

#include <math.h>
#include <string.h>

namespace gantry::engine::cpu {
namespace {

constexpr int kTileRows = 1, kTileRowsOne = 1, kTileColumns = 4;
constexpr int kQueryTile = 1, kVectorTile = 1;

struct Vec {
  float lane[16];

  static Vec Zero() { return Broadcast(0); }
  static Vec Broadcast(float value) {
    Vec v;
    for (float& l : v.lane) l = value;
    return v;
  }
  static Vec Load(const float* p) { return LoadTail(p, 16); }
  static Vec LoadTail(const float* p, int64_t n) {
    Vec v = Zero();
    for (int64_t i = 0; i < n; ++i) v.lane[i] = p[i];
    return v;
  }
  static Vec LoadBf16(const uint16_t* p) { return LoadBf16Tail(p, 16); }
  static Vec LoadBf16Tail(const uint16_t* p, int64_t n) {
    Vec v = Zero();
    for (int64_t i = 0; i < n; ++i) v.lane[i] = Bf16ToFloat(p[i]);
    return v;
  }
  static Vec LoadHalf(const uint16_t* p) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = F16ToFloat(p[i]);
    return v;
  }
  static Vec LoadInt8(const int8_t* p) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = p[i];
    return v;
  }
  static Vec Fma(const Vec& a, const Vec& b, const Vec& c) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return v;
  }
  static Vec Mul(const Vec& a, const Vec& b) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = a.lane[i] * b.lane[i];
    return v;
  }
  static Vec Add(const Vec& a, const Vec& b) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = a.lane[i] + b.lane[i];
    return v;
  }
  static Vec Sub(const Vec& a, const Vec& b) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = a.lane[i] - b.lane[i];
    return v;
  }
  static Vec Div(const Vec& a, const Vec& b) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = a.lane[i] / b.lane[i];
    return v;
  }
  // b where either is NaN.
  static Vec Max(const Vec& a, const Vec& b) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return v;
  }
  static Vec Min(const Vec& a, const Vec& b) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    return v;
  }
  // 2^n for a lane whose bits end in the integer n, as adding kRoundToInt leaves them.
  Vec PowerOfTwo() const {
    Vec v;
    for (int i = 0; i < 16; ++i) {
      uint32_t bits;
      memcpy(&bits, &lane[i], sizeof(bits));
      bits = (bits << 23) + 0x3f800000u;
      memcpy(&v.lane[i], &bits, sizeof(bits));
    }
    return v;
  }
  void Store(float* p) const { memcpy(p, lane, sizeof(lane)); }
  void StoreTail(float* p, int64_t n) const { memcpy(p, lane, sizeof(float) * n); }
  void StoreHalf(uint16_t* p) const {
    for (int i = 0; i < 16; ++i) p[i] = FloatToF16(lane[i]);
  }
  float ReduceMax() const {
    float max = lane[0];
    for (int i = 1; i < 16; ++i) max = lane[i] > max ? lane[i] : max;
    return max;
  }
  float Reduce() const {
    float sum[16];
    memcpy(sum, lane, sizeof(sum));
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
    }
    return sum[0];
  }
};

#include "engine/backend/cpu/kernels-inl.h"

}  // namespace

const Kernels& ScalarKernels() {
  static const Kernels kernels = {"scalar",     MatMul,       Dot,       AddNorm,       RmsNorm,
                                  SiluMul,      ConvolveSilu, GatedNorm, GateBySigmoid, AddWeighted,
                                  RunDeltaSlab, Rotate,       WriteKv,   AttendPage,    MergeAttention};
  return kernels;
}

}  // namespace gantry::engine::cpu
