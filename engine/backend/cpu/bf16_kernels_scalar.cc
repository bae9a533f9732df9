// Lane by lane, for any machine; the oracle of the other paths.
#include "engine/backend/cpu/bf16_kernels.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "engine/base/numeric.h"

namespace gantry::engine::cpu {
namespace {

constexpr int kTilePanels = 1, kTileRows = 2, kTilePanelsOne = 1;
constexpr bool kFlushes = false;

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
  static Pair Load(const uint16_t* p) { return {Bf16ToFloat(p[0]), Bf16ToFloat(p[1])}; }
};
struct Sums {
  float lanes[16];
  static Sums Zero() { return {}; }
  static Sums Dot(const Sums& sums, const Pairs& w, const Pair& x) {
    Sums out;
    for (int r = 0; r < 16; ++r) {
      out.lanes[r] = fmaf(Bf16ToFloat(w.of[r][0]), x.even, fmaf(Bf16ToFloat(w.of[r][1]), x.odd, sums.lanes[r]));
    }
    return out;
  }
  void Store(float* p, int rows) const { memcpy(p, lanes, sizeof(float) * rows); }
};

#include "engine/backend/cpu/bf16_kernels-inl.h"

}  // namespace

const Bf16Kernels& ScalarBf16Kernels() {
  static const Bf16Kernels kernels = {"scalar", Bf16MatMul, RoundToBf16};
  return kernels;
}

}  // namespace gantry::engine::cpu
