#include "billing/rating/rating.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int64_t kPicoPerMicro = 1'000'000;

// The tier that unit number `unit` (from 1) falls in.
const Tier& TierOf(const PriceLine& line, int64_t unit) {
  size_t i = line.tiers.size() - 1;
  while (i > 0 && line.tiers[i].from >= unit) --i;
  return line.tiers[i];
}

}  // namespace

int64_t Quantities::of(TokenClass token_class) const {
  switch (token_class) {
    case TokenClass::kInput:
      return input;
    case TokenClass::kCachedInput:
      return cached_input;
    case TokenClass::kOutput:
      return output;
    case TokenClass::kRequest:
      return requests;
  }
  return 0;
}

__int128 AmountOf(const PriceLine& line, int64_t quantity) {
  const auto units = static_cast<__int128>(quantity);
  switch (line.mode) {
    case TierMode::kFlat:
      return units * line.tiers[0].price_micro_per_m;
    case TierMode::kGraduated: {
      __int128 amount = 0;
      for (size_t i = 0; i < line.tiers.size() && line.tiers[i].from < quantity; ++i) {
        const int64_t end = i + 1 < line.tiers.size() ? std::min(line.tiers[i + 1].from, quantity) : quantity;
        amount += static_cast<__int128>(end - line.tiers[i].from) * line.tiers[i].price_micro_per_m;
      }
      return amount;
    }
    case TierMode::kVolume:
      return units * TierOf(line, quantity).price_micro_per_m;
    case TierMode::kPackage:
      return (units + line.package_size - 1) / line.package_size * line.package_size * line.tiers[0].price_micro_per_m;
  }
  return 0;
}

absl::StatusOr<std::vector<Charge>> Rate(const std::vector<PriceLine>& lines, absl::string_view model, int64_t context,
                                         const Quantities& quantities, UnitsBefore units_before) {
  std::vector<Charge> charges;
  for (const TokenClass token_class : kTokenClasses) {
    const int64_t quantity = quantities.of(token_class);
    if (quantity == 0) continue;
    GANTRY_ASSIGN_OR_RETURN(const int index, LineFor(lines, model, context, token_class));
    const PriceLine& line = lines[static_cast<size_t>(index)];
    __int128 amount = 0;
    if (line.mode == TierMode::kFlat) {
      amount = AmountOf(line, quantity);
    } else {
      const int64_t before = units_before(index);
      if (quantity > kUnitsMax || before > kUnitsMax - quantity || before + quantity < 0) {
        return absl::OutOfRangeError(absl::StrCat("the units of ", TokenClassName(token_class), " in this period: ",
                                                  before, " and now ", quantity, ", expected 0..", kUnitsMax));
      }
      amount = AmountOf(line, before + quantity) - AmountOf(line, before);
    }
    if (amount > INT64_MAX || amount < -INT64_MAX) {
      return absl::OutOfRangeError("the amount of one request exceeds 9.2 million units");
    }
    charges.push_back({index, quantity, static_cast<int64_t>(amount)});
  }
  return charges;
}

int64_t BeyondAllowance(__int128 before_pico, int64_t gross_pico, int64_t allowance_micro) {
  const auto charged = [&](__int128 sum) {
    const __int128 beyond = sum - static_cast<__int128>(allowance_micro) * kPicoPerMicro;
    return beyond > 0 ? beyond : static_cast<__int128>(0);
  };
  // Between 0 and gross, so it fits.
  return static_cast<int64_t>(charged(before_pico + gross_pico) - charged(before_pico));
}

int64_t PostableMicro(int64_t pico, int64_t* residue) {
  GANTRY_CHECK(*residue > -kPicoPerMicro && *residue < kPicoPerMicro, "a residue is less than a micro-unit");
  const __int128 sum = static_cast<__int128>(pico) + *residue;
  *residue = static_cast<int64_t>(sum % kPicoPerMicro);
  return static_cast<int64_t>(sum / kPicoPerMicro);
}

int64_t RoundToMinor(__int128 pico, int minor_digits) {
  GANTRY_CHECK(minor_digits >= 0 && minor_digits <= 12, "a currency has at most 12 decimals here");
  __int128 unit = 1;
  for (int i = minor_digits; i < 12; ++i) unit *= 10;
  // On the magnitude, the sign afterwards: away from zero means the same on both sides.
  const __int128 rounded = ((pico < 0 ? -pico : pico) + unit / 2) / unit;
  return static_cast<int64_t>(pico < 0 ? -rounded : rounded);
}

}  // namespace gantry::billing
