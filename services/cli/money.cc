#include "services/cli/money.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace gantry::cli {
namespace {

constexpr int64_t kMicroPerUnit = 1'000'000;
constexpr int64_t kUnitsMax = 1'000'000'000;

// `value` counts 10^-digits of a unit.
std::string FormatScaled(int64_t value, int digits) {
  const bool negative = value < 0;
  // Unsigned, because the most negative value has no positive twin.
  uint64_t magnitude = negative ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  std::string text = absl::StrCat(magnitude);
  if (text.size() <= static_cast<size_t>(digits)) text.insert(0, digits + 1 - text.size(), '0');
  text.insert(text.size() - digits, ".");
  while (text.back() == '0' && text[text.size() - 3] != '.') text.pop_back();
  return negative ? "-" + text : text;
}

}  // namespace

absl::StatusOr<int64_t> ParseMicro(absl::string_view text) {
  const absl::Status invalid = absl::InvalidArgumentError(absl::StrCat(
      "amount `", text, "` is not valid: expected a positive decimal number with at most 6 decimals and at most ",
      kUnitsMax, ", for example 25 or 12.50"));
  int64_t units = 0, fraction = 0, weight = kMicroPerUnit;
  size_t digits = 0, i = 0;
  for (; i < text.size() && absl::ascii_isdigit(text[i]); ++i, ++digits) {
    units = units * 10 + (text[i] - '0');
    if (units > kUnitsMax) return invalid;
  }
  if (digits == 0) return invalid;
  if (i < text.size()) {
    if (text[i++] != '.' || i == text.size()) return invalid;
    for (; i < text.size() && absl::ascii_isdigit(text[i]) && weight > 1; ++i) {
      weight /= 10;
      fraction += (text[i] - '0') * weight;
    }
    if (i != text.size()) return invalid;
  }
  const int64_t micro = units * kMicroPerUnit + fraction;
  if (micro == 0) return invalid;
  return micro;
}

std::string FormatMicro(int64_t micro) {
  return FormatScaled(micro, 6);
}

std::string FormatPico(int64_t pico) {
  return FormatScaled(pico, 12);
}

}  // namespace gantry::cli
