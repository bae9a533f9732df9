// Passes over a row of logits, four at a time on any x86-64: a vocabulary has up to a quarter of a million of them, and
// nobody else works while one thread reads them.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace gantry::engine {

inline constexpr int kScanLanes = 16;
using ScanFloats [[gnu::vector_size(4 * kScanLanes)]] = float;
using ScanInts [[gnu::vector_size(4 * kScanLanes)]] = int32_t;

// The first that is NaN or infinite; n: none.
inline int FirstNotFinite(const float* x, int n) {
  constexpr int kBlock = 64 * kScanLanes;
  const auto finite = [](float v) { return (std::bit_cast<uint32_t>(v) & 0x7f800000u) != 0x7f800000u; };
  int i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    ScanInts bad = {};
    for (int at = i; at < i + kBlock; at += kScanLanes) {
      ScanInts bits;
      std::memcpy(&bits, x + at, sizeof(bits));
      bad |= (bits & 0x7f800000) == 0x7f800000;
    }
    int any = 0;
    for (int lane = 0; lane < kScanLanes; ++lane) any |= bad[lane];
    if (any != 0) break;
  }
  while (i < n && finite(x[i])) ++i;
  return i;
}

// The largest value. REQUIRES: n > 0, no NaN.
inline float LargestOf(const float* x, int n) {
  float largest = x[0];
  int i = 0;
  if (n >= kScanLanes) {
    ScanFloats lanes;
    std::memcpy(&lanes, x, sizeof(lanes));
    for (i = kScanLanes; i + kScanLanes <= n; i += kScanLanes) {
      ScanFloats next;
      std::memcpy(&next, x + i, sizeof(next));
      lanes = next > lanes ? next : lanes;
    }
    for (int lane = 0; lane < kScanLanes; ++lane) largest = lanes[lane] > largest ? lanes[lane] : largest;
  }
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

// The first of the largest. REQUIRES: n > 0, no NaN.
inline int FirstLargest(const float* x, int n) {
  const float largest = LargestOf(x, n);
  int i = 0;
  while (x[i] != largest) ++i;
  return i;
}

}  // namespace gantry::engine
