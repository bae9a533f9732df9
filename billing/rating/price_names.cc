#include "billing/rating/price_names.h"

#include "billing/rating/price_line.h"

namespace gantry::billing {

const char* TokenClassName(v1::TokenClass token_class) {
  switch (token_class) {
    case v1::TOKEN_CLASS_INPUT:
      return TokenClassName(TokenClass::kInput);
    case v1::TOKEN_CLASS_CACHED_INPUT:
      return TokenClassName(TokenClass::kCachedInput);
    case v1::TOKEN_CLASS_OUTPUT:
      return TokenClassName(TokenClass::kOutput);
    case v1::TOKEN_CLASS_REQUEST:
      return TokenClassName(TokenClass::kRequest);
    default:
      return "unspecified";
  }
}

const char* TierModeName(v1::TierMode mode) {
  switch (mode) {
    case v1::TIER_MODE_GRADUATED:
      return TierModeName(TierMode::kGraduated);
    case v1::TIER_MODE_VOLUME:
      return TierModeName(TierMode::kVolume);
    case v1::TIER_MODE_PACKAGE:
      return TierModeName(TierMode::kPackage);
    default:
      return TierModeName(TierMode::kFlat);
  }
}

}  // namespace gantry::billing
