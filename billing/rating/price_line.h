// What a plan version charges: lines by model, token class, length of context and tier.
//
// Prices are micro-units per million tokens (or per million requests), so tokens x price is pico-units (10^-12) without
// any rounding. Pure; no clock, no store.
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

// How a line's quantity of one period turns into money.
enum class TierMode {
  kFlat,       // every unit at the one price
  kGraduated,  // each unit at the price of the tier that it falls in
  kVolume,     // all units at the price of the tier that the last one falls in
  kPackage,    // whole packages of `package_size` units
};
const char* TierModeName(TierMode mode);  // "flat", "graduated", "volume", "package"

struct Tier {
  int64_t from = 0;               // units before it: the tier holds unit from + 1 and those after it
  int64_t price_micro_per_m = 0;  // >= 0
};

struct PriceLine {
  std::string model_glob;  // `*` any run, `?` any one character
  TokenClass token_class = TokenClass::kInput;
  std::vector<Tier> tiers;   // ascending, the first from 0; one when flat or package
  int64_t context_from = 0;  // the line is for prompts of [context_from, context_to) tokens, cached ones counted
  int64_t context_to = 0;    // 0: no end
  TierMode mode = TierMode::kFlat;
  int64_t package_size = 0;  // > 0 for packages, 0 else
};
PriceLine FlatLine(std::string model_glob, TokenClass token_class, int64_t price_micro_per_m);

inline constexpr int64_t kPriceMaxMicroPerM = int64_t{1'000'000} * 1'000'000;  // a million units per million tokens
inline constexpr int kPriceLinesMax = 1000;
inline constexpr int kTiersMax = 16;
inline constexpr int64_t kUnitsMax = int64_t{1} << 50;  // of contexts, tiers, packages and quantities of a period

// INVALID_ARGUMENT names the line: a malformed one; one that no request can reach; contexts of a model and class that
// overlap or leave a gap; a class without `*`: every request of every model must have exactly one price.
absl::Status ValidatePriceLines(const std::vector<PriceLine>& lines);

// The line of a class for a model and a prompt of `context` tokens: the first whose glob and context match. NOT_FOUND:
// none does.
absl::StatusOr<int> LineFor(const std::vector<PriceLine>& lines, absl::string_view model, int64_t context,
                            TokenClass token_class);

// `lines` with `markup_ppm` (200,000 = 20 %) on every price, rounded up to a whole micro-unit per million.
// INVALID_ARGUMENT: the markup is out of [-1,000,000, 100,000,000], or a price passes the limit.
absl::StatusOr<std::vector<PriceLine>> MarkedUp(std::vector<PriceLine> lines, int64_t markup_ppm);

bool GlobMatches(absl::string_view glob, absl::string_view text);

}  // namespace gantry::billing
