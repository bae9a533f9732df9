// Plain loops: what the vector paths must equal bit for bit.
#include "engine/backend/cpu/int8_kernels.h"

#include <math.h>
#include <string.h>

#include "engine/base/numeric.h"

namespace gantry::engine::cpu {
namespace {

constexpr int kTilePanels = 1, kTileRows = 1;

struct Bytes {
  uint8_t lanes[64];
  static Bytes Load(const uint8_t* p) {
    Bytes out;
    memcpy(out.lanes, p, 64);
    return out;
  }
  template <typename Op>
  Bytes Map(Op op) const {
    Bytes out;
    for (int i = 0; i < 64; ++i) out.lanes[i] = (uint8_t)op(lanes[i]);
    return out;
  }
  Bytes And(uint8_t mask) const {
    return Map([mask](int v) { return v & mask; });
  }
  Bytes Or(const Bytes& other) const {
    Bytes out;
    for (int i = 0; i < 64; ++i) out.lanes[i] = lanes[i] | other.lanes[i];
    return out;
  }
  template <int kBits>
  Bytes ShiftRight() const {
    return Map([](int v) { return v >> kBits; });
  }
  template <int kBits>
  Bytes ShiftLeft() const {
    return Map([](int v) { return v << kBits; });
  }
  void Store(uint8_t* p) const { memcpy(p, lanes, sizeof(lanes)); }
};

struct Quad {
  int8_t four[4];
  static Quad Load(const int8_t* x) {
    Quad out;
    memcpy(out.four, x, sizeof(out.four));
    return out;
  }
};

struct Floats {
  float lanes[16];
  static Floats Set(float value) {
    Floats out;
    for (float& lane : out.lanes) lane = value;
    return out;
  }
  static Floats Zero() { return Set(0); }
  static Floats FromHalf(const uint8_t* p) {
    Floats out;
    for (int r = 0; r < 16; ++r) out.lanes[r] = F16ToFloat((uint16_t)(p[2 * r] | p[2 * r + 1] << 8));
    return out;
  }
  static Floats Mul(const Floats& a, const Floats& b) {
    Floats out;
    for (int r = 0; r < 16; ++r) out.lanes[r] = a.lanes[r] * b.lanes[r];
    return out;
  }
  static Floats Fma(const Floats& a, const Floats& b, const Floats& c) {
    Floats out;
    for (int r = 0; r < 16; ++r) out.lanes[r] = fmaf(a.lanes[r], b.lanes[r], c.lanes[r]);
    return out;
  }
  void Store(float* p, int rows) const { memcpy(p, lanes, sizeof(float) * rows); }
};

struct Ints {
  int32_t lanes[16];
  static Ints Set(int value) {
    Ints out;
    for (int32_t& lane : out.lanes) lane = value;
    return out;
  }
  static Ints FromBytes(const uint8_t* p) {
    Ints out;
    for (int r = 0; r < 16; ++r) out.lanes[r] = p[r];
    return out;
  }
  static Ints FromSignedBytes(const uint8_t* p) {
    Ints out;
    for (int r = 0; r < 16; ++r) out.lanes[r] = (int8_t)p[r];
    return out;
  }
  static Ints Add(const Ints& a, const Ints& b) {
    Ints out;
    for (int r = 0; r < 16; ++r) out.lanes[r] = a.lanes[r] + b.lanes[r];
    return out;
  }
  static Ints Mul(const Ints& a, const Ints& b) {
    Ints out;
    for (int r = 0; r < 16; ++r) out.lanes[r] = a.lanes[r] * b.lanes[r];
    return out;
  }
  Floats ToFloats() const {
    Floats out;
    for (int r = 0; r < 16; ++r) out.lanes[r] = (float)lanes[r];
    return out;
  }
  template <bool kWide>
  static Ints Dot(const Ints& acc, const Bytes& w, const Quad& x) {
    Ints out = acc;
    for (int r = 0; r < 16; ++r) {
      for (int i = 0; i < 4; ++i) out.lanes[r] += w.lanes[4 * r + i] * x.four[i];
    }
    return out;
  }
  static Ints Pairs(const uint8_t* p, const uint8_t* q) {
    Ints out;
    for (int r = 0; r < 16; ++r) out.lanes[r] = p[r] | q[r] << 16;
    return out;
  }
  static Ints DotPairs(const Ints& acc, const Ints& pairs, const int16_t* x) {
    Ints out = acc;
    for (int r = 0; r < 16; ++r) out.lanes[r] += (pairs.lanes[r] & 0xffff) * x[0] + (pairs.lanes[r] >> 16) * x[1];
    return out;
  }
};

uint32_t LargestBits(const float* x, int n) {
  uint32_t largest = 0;
  for (int i = 0; i < n; ++i) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof(bits));
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}
int Quantize16(const float* x, float inverse, int8_t* q) {
  int sum = 0;
  for (int j = 0; j < 16; ++j) {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, ties to even, for |value| < 2^22.
    const int integer = (int)((x[j] * inverse + 12582912.0f) - 12582912.0f);
    q[j] = (int8_t)integer;
    sum += integer;
  }
  return sum;
}

#include "engine/backend/cpu/int8_kernels-inl.h"

}  // namespace

const Int8Kernels& ScalarInt8Kernels() {
  static const Int8Kernels kernels = {"scalar", Int8MatMul, Quantize};
  return kernels;
}

}  // namespace gantry::engine::cpu
