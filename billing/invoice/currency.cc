#include "billing/invoice/currency.h"

#include <algorithm>
#include <array>

#include "engine/base/check.h"

namespace gantry::billing {

int MinorDigits(const std::string& currency) {
  static constexpr std::array kNone = {"BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG",
                                       "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"};
  static constexpr std::array kThree = {"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"};
  const auto among = [&](const auto& list) { return std::find(list.begin(), list.end(), currency) != list.end(); };
  return among(kNone) ? 0 : among(kThree) ? 3 : 2;
}

int64_t MicroPerMinor(uint32_t minor_digits) {
  GANTRY_CHECK(minor_digits <= 6, "a currency has at most 6 decimals here");
  int64_t micro = 1;
  for (uint32_t i = minor_digits; i < 6; ++i) micro *= 10;
  return micro;
}

}  // namespace gantry::billing
