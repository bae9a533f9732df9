#include "billing/rating/price_names.h"

#include "billing/rating/price_line.h"

namespace gantry::billing {

// Messages count from 1, with 0 for what was not said.
static_assert(static_cast<int>(TokenClass::kInput) + 1 == v1::TOKEN_CLASS_INPUT);
static_assert(static_cast<int>(TokenClass::kRequest) + 1 == v1::TokenClass_MAX);
static_assert(static_cast<int>(TierMode::kFlat) + 1 == v1::TIER_MODE_FLAT);
static_assert(static_cast<int>(TierMode::kPackage) + 1 == v1::TierMode_MAX);

const char* TokenClassName(v1::TokenClass token_class) {
  const bool known = token_class != v1::TOKEN_CLASS_UNSPECIFIED && v1::TokenClass_IsValid(token_class);
  return known ? TokenClassName(static_cast<TokenClass>(token_class - 1)) : "unspecified";
}

const char* TierModeName(v1::TierMode mode) {
  const bool known = mode != v1::TIER_MODE_UNSPECIFIED && v1::TierMode_IsValid(mode);
  return TierModeName(known ? static_cast<TierMode>(mode - 1) : TierMode::kFlat);
}

}  // namespace gantry::billing
