// Lane by lane, for any machine; the oracle of the other paths.
#include "engine/backend/cpu/bf16_kernels.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace gantry::engine::cpu {
namespace {

constexpr int kTilePanels = 1, kTileRows = 2, kTilePanelsOne = 1;
constexpr bool kFlushes = false;

float Widen(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof(value));
  return value;
}

struct Pairs {
  uint16_t of[16][2];
  static Pairs Load(const uint8_t* p) {
    Pairs pairs;
    memcpy(&pairs, p, sizeof(pairs));
    return pairs;
  }
};
struct Pair {
  float even, odd;
  static Pair Load(const uint16_t* p) { return {Widen(p[0]), Widen(p[1])}; }
};
struct Sums {
  float lanes[16];
  static Sums Zero() { return {}; }
  static Sums Dot(const Sums& sums, const Pairs& w, const Pair& x) {
    Sums out;
    for (int r = 0; r < 16; ++r) {
      out.lanes[r] = fmaf(Widen(w.of[r][0]), x.even, fmaf(Widen(w.of[r][1]), x.odd, sums.lanes[r]));
    }
    return out;
  }
  void Store(float* p, int rows) const { memcpy(p, lanes, sizeof(float) * rows); }
};

void PrefetchBytes(const uint8_t*) {}

#include "engine/backend/cpu/bf16_kernels-inl.h"

}  // namespace

const Bf16Kernels& ScalarBf16Kernels() {
  static const Bf16Kernels kernels = {"scalar", Bf16MatMul, RoundToBf16};
  return kernels;
}

}  // namespace gantry::engine::cpu
