// Decimal amounts as people type them <-> integers with a unit. No floating point.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry::cli {

// "12", "12.5", "0.000001" -> micro-units. INVALID_ARGUMENT for signs, exponents, more than 6 decimals, more than 10^9
// units.
absl::StatusOr<int64_t> ParseMicro(absl::string_view text);

// 12'500'000 -> "12.50"; at least two decimals, as many as the value has, at most 6.
std::string FormatMicro(int64_t micro);

// Exact, trailing zeros beyond two decimals cut: 1'234'500'000 pico -> "0.0012345".
std::string FormatPico(int64_t pico);

}  // namespace gantry::cli
