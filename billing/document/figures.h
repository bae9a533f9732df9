// Integers as people read them. No floating point; what is cut off is rounded half away from zero.
#pragma once

#include <cstdint>
#include <string>

namespace gantry::document {

// `value` counts 10^-scale of a unit and is shown with `digits` decimals: Figure(1'234'567'890, 6, 2) -> "1,234.57".
// 0 <= digits <= scale <= 18.
std::string Figure(__int128 value, int scale, int digits);

// As many decimals as the value has, but at least `digits_min`: Exact(3'625, 6, 2) -> "0.003625".
std::string Exact(__int128 value, int scale, int digits_min);

// For machines: no separators, all decimals. Plain(1'234'567'890, 6) -> "1234.567890"; a scale of 0 has no point.
std::string Plain(__int128 value, int scale);

// n / d rounded half away from zero. REQUIRES: d > 0.
__int128 RoundedQuotient(__int128 n, __int128 d);

}  // namespace gantry::document
