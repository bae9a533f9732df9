// What usage costs: tokens x price, exactly.
//
// Prices are micro-units per million tokens, so tokens x price is pico-units (10^-12) without any rounding. Sums run in
// 128 bits; what does not fit 64 is an error, never a wrong number. Pure functions; no clock, no store.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry::billing {

enum class TokenClass { kInput, kCachedInput, kOutput, kRequest };
inline constexpr TokenClass kTokenClasses[] = {TokenClass::kInput, TokenClass::kCachedInput, TokenClass::kOutput,
                                               TokenClass::kRequest};
const char* TokenClassName(TokenClass token_class);  // "input", "cached_input", "output", "request"

struct PriceLine {
  std::string model_glob;  // `*` and `?`; the first line of a class that matches wins
  TokenClass token_class = TokenClass::kInput;
  int64_t price_micro_per_m = 0;  // >= 0
};

// What one request used. Cached prompt tokens are not part of `input`.
struct Quantities {
  int64_t input = 0;
  int64_t cached_input = 0;
  int64_t output = 0;
  int64_t requests = 0;
  int64_t of(TokenClass token_class) const;
};

// INVALID_ARGUMENT when a line is malformed, or when a class has no `*` line at its end: every model must have a price.
absl::Status ValidatePriceLines(const std::vector<PriceLine>& lines);

// The price of one class for a model. NOT_FOUND when no line matches.
absl::StatusOr<int64_t> PriceOf(const std::vector<PriceLine>& lines, absl::string_view model, TokenClass token_class);

// Pico-units. OUT_OF_RANGE when it does not fit int64; INVALID_ARGUMENT for negative quantities.
absl::StatusOr<int64_t> Rate(const std::vector<PriceLine>& lines, absl::string_view model,
                             const Quantities& quantities);

// Adds pico to an account's residue r in [0, 10^6) and returns the whole micro-units to post; the rest stays in
// *residue. So that always: sum of posted x 10^6 + residue = sum of pico. REQUIRES: pico >= 0.
int64_t PostableMicro(int64_t pico, int64_t* residue);

// Pico-units to minor units (10^-digits of a unit), half away from zero: the one rounding of an invoice line.
int64_t RoundToMinor(int64_t pico, int minor_digits);

// `*` any run, `?` any one character.
bool GlobMatches(absl::string_view glob, absl::string_view text);

}  // namespace gantry::billing
