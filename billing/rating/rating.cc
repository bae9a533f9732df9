#include "billing/rating/rating.h"

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int64_t kPicoPerMicro = 1'000'000;
constexpr int64_t kPriceMax = int64_t{1'000'000} * 1'000'000;  // a million units per million tokens
constexpr size_t kLinesMax = 1000;
constexpr size_t kGlobBytesMax = 256;

}  // namespace

const char* TokenClassName(TokenClass token_class) {
  switch (token_class) {
    case TokenClass::kInput:
      return "input";
    case TokenClass::kCachedInput:
      return "cached_input";
    case TokenClass::kOutput:
      return "output";
    case TokenClass::kRequest:
      return "request";
  }
  return "";
}

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

bool GlobMatches(absl::string_view glob, absl::string_view text) {
  // Two pointers and one place to return to: linear in glob x text at worst, without recursion.
  size_t g = 0, t = 0, star = absl::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (g < glob.size() && (glob[g] == '?' || (glob[g] != '*' && glob[g] == text[t]))) {
      ++g;
      ++t;
    } else if (g < glob.size() && glob[g] == '*') {
      star = g++;
      resume = t;
    } else if (star != absl::string_view::npos) {
      g = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

absl::Status ValidatePriceLines(const std::vector<PriceLine>& lines) {
  if (lines.empty() || lines.size() > kLinesMax) {
    return absl::InvalidArgumentError(absl::StrCat("expected 1 to ", kLinesMax, " price lines, found ", lines.size()));
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].model_glob.empty() || lines[i].model_glob.size() > kGlobBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("price line ", i, ": expected a model glob of 1 to ", kGlobBytesMax, " bytes"));
    }
    if (lines[i].price_micro_per_m < 0 || lines[i].price_micro_per_m > kPriceMax) {
      return absl::InvalidArgumentError(absl::StrCat("price line ", i, ": expected a price in [0, ", kPriceMax,
                                                     "] micro-units per million, found ", lines[i].price_micro_per_m));
    }
  }
  for (const TokenClass token_class : kTokenClasses) {
    bool covered = false;
    for (const PriceLine& line : lines)
      covered = covered || (line.token_class == token_class && line.model_glob == "*");
    if (!covered) {
      return absl::InvalidArgumentError(
          absl::StrCat("no price line `*` for ", TokenClassName(token_class), ": every model must have a price"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> PriceOf(const std::vector<PriceLine>& lines, absl::string_view model, TokenClass token_class) {
  for (const PriceLine& line : lines) {
    if (line.token_class == token_class && GlobMatches(line.model_glob, model)) return line.price_micro_per_m;
  }
  return absl::NotFoundError(absl::StrCat("no price for ", TokenClassName(token_class), " of model `", model, "`"));
}

absl::StatusOr<int64_t> Rate(const std::vector<PriceLine>& lines, absl::string_view model,
                             const Quantities& quantities) {
  __int128 pico = 0;
  for (const TokenClass token_class : kTokenClasses) {
    const int64_t quantity = quantities.of(token_class);
    if (quantity < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("the quantity of ", TokenClassName(token_class), " is negative: ", quantity));
    }
    if (quantity == 0) continue;
    GANTRY_ASSIGN_OR_RETURN(const int64_t price, PriceOf(lines, model, token_class));
    pico += static_cast<__int128>(quantity) * price;
  }
  if (pico > INT64_MAX) return absl::OutOfRangeError("the amount of one request exceeds 9.2 million units");
  return static_cast<int64_t>(pico);
}

int64_t PostableMicro(int64_t pico, int64_t* residue) {
  GANTRY_CHECK(pico >= 0 && *residue >= 0 && *residue < kPicoPerMicro, "amounts and residues are not negative");
  const __int128 sum = static_cast<__int128>(pico) + *residue;
  *residue = static_cast<int64_t>(sum % kPicoPerMicro);
  return static_cast<int64_t>(sum / kPicoPerMicro);
}

int64_t RoundToMinor(int64_t pico, int minor_digits) {
  GANTRY_CHECK(minor_digits >= 0 && minor_digits <= 12, "a currency has at most 12 decimals here");
  __int128 unit = 1;
  for (int i = minor_digits; i < 12; ++i) unit *= 10;
  // On the magnitude, the sign afterwards: away from zero means the same on both sides.
  const __int128 magnitude = pico < 0 ? -static_cast<__int128>(pico) : static_cast<__int128>(pico);
  const __int128 rounded = (magnitude + unit / 2) / unit;
  return static_cast<int64_t>(pico < 0 ? -rounded : rounded);
}

}  // namespace gantry::billing
