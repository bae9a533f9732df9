#include "billing/document/figures.h"

#include <algorithm>

#include "engine/base/check.h"

namespace gantry::document {
namespace {

unsigned __int128 Magnitude(__int128 value) {
  // Unsigned, because the most negative value has no positive twin.
  const auto bits = static_cast<unsigned __int128>(value);
  return value < 0 ? 0 - bits : bits;
}

// "1,234.567": `value` counts 10^-scale.
std::string Digits(unsigned __int128 value, int scale, bool grouped) {
  std::string digits;  // backwards
  int written = 0;
  while (value > 0 || written <= scale) {
    if (written == scale && scale > 0) digits.push_back('.');
    if (grouped && written > scale && (written - scale) % 3 == 0) digits.push_back(',');
    digits.push_back(static_cast<char>('0' + static_cast<int>(value % 10)));
    value /= 10;
    ++written;
  }
  std::reverse(digits.begin(), digits.end());
  return digits;
}

}  // namespace

__int128 RoundedQuotient(__int128 n, __int128 d) {
  GANTRY_CHECK(d > 0, "what is divided by is positive");
  const __int128 quotient = n / d, rest = n % d;
  const unsigned __int128 twice = Magnitude(rest) * 2;
  if (twice < static_cast<unsigned __int128>(d)) return quotient;
  return n < 0 ? quotient - 1 : quotient + 1;
}

std::string Figure(__int128 value, int scale, int digits) {
  GANTRY_CHECK(digits >= 0 && digits <= scale && scale <= 18, "decimals shown are decimals there are");
  __int128 cut = 1;
  for (int i = digits; i < scale; ++i) cut *= 10;
  const __int128 rounded = RoundedQuotient(value, cut);
  const std::string text = Digits(Magnitude(rounded), digits, /*grouped=*/true);
  return rounded < 0 ? "-" + text : text;
}

std::string Plain(__int128 value, int scale) {
  GANTRY_CHECK(scale >= 0, "decimals there are");
  const std::string text = Digits(Magnitude(value), scale, /*grouped=*/false);
  return value < 0 ? "-" + text : text;
}

std::string Exact(__int128 value, int scale, int digits_min) {
  int digits = scale;
  for (__int128 rest = value; digits > digits_min && rest % 10 == 0; rest /= 10) --digits;
  return Figure(value, scale, digits);
}

}  // namespace gantry::document
