#include "billing/rating/price_line.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr size_t kGlobBytesMax = 256;

absl::Status Bad(size_t line, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("price line ", line, ": ", what));
}

absl::Status CheckTiers(size_t i, const PriceLine& line) {
  if (line.tiers.empty() || line.tiers.size() > kTiersMax) {
    return Bad(i, absl::StrCat("expected 1 to ", kTiersMax, " tiers, found ", line.tiers.size()));
  }
  const bool one_tier = line.mode == TierMode::kFlat || line.mode == TierMode::kPackage;
  if (one_tier && line.tiers.size() != 1) {
    return Bad(i, absl::StrCat("a ", TierModeName(line.mode), " line has one tier, found ", line.tiers.size()));
  }
  int64_t before = -1;
  for (const Tier& tier : line.tiers) {
    if (tier.from <= before || tier.from > kUnitsMax || (before < 0 && tier.from != 0)) {
      return Bad(i, absl::StrCat("tiers start at 0 and ascend up to ", kUnitsMax, ", found ", tier.from));
    }
    before = tier.from;
    if (tier.price_micro_per_m < 0 || tier.price_micro_per_m > kPriceMaxMicroPerM) {
      return Bad(i, absl::StrCat("expected a price in [0, ", kPriceMaxMicroPerM, "] micro-units per million, found ",
                                 tier.price_micro_per_m));
    }
  }
  const bool package = line.mode == TierMode::kPackage;
  if (package != (line.package_size > 0) || line.package_size < 0 || line.package_size > kUnitsMax) {
    return Bad(i, absl::StrCat("package_size: expected ", package ? absl::StrCat("1..", kUnitsMax) : "0", " of a ",
                               TierModeName(line.mode), " line, found ", line.package_size));
  }
  return absl::OkStatus();
}

absl::Status CheckLine(size_t i, const PriceLine& line) {
  if (line.model_glob.empty() || line.model_glob.size() > kGlobBytesMax) {
    return Bad(i, absl::StrCat("expected a model glob of 1 to ", kGlobBytesMax, " bytes"));
  }
  if (line.context_from < 0 || line.context_from > kUnitsMax || line.context_to < 0 || line.context_to > kUnitsMax ||
      (line.context_to != 0 && line.context_to <= line.context_from)) {
    return Bad(i, absl::StrCat("contexts are [from, to) within 0..", kUnitsMax, ", 0 for no end; found [",
                               line.context_from, ", ", line.context_to, ")"));
  }
  return CheckTiers(i, line);
}

using Band = std::pair<int64_t, int64_t>;  // [from, to), to = 0: no end

// That the contexts of one glob and class tile [0, ∞).
absl::Status CheckBands(absl::string_view glob, TokenClass token_class, std::vector<Band> bands) {
  std::sort(bands.begin(), bands.end());
  int64_t reached = 0;
  bool ended = false;
  for (const auto& [from, to] : bands) {
    if (ended || from != reached) {
      return absl::InvalidArgumentError(absl::StrCat("the contexts of ", TokenClassName(token_class), " for `", glob,
                                                     "` ", !ended && from > reached ? "leave a gap" : "overlap", " at ",
                                                     ended ? from : std::min(from, reached)));
    }
    reached = to;
    ended = to == 0;
  }
  if (ended) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the contexts of ", TokenClassName(token_class), " for `", glob,
                                                 "` end at ", reached, ": the last one needs no end (0)"));
}

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

const char* TierModeName(TierMode mode) {
  switch (mode) {
    case TierMode::kFlat:
      return "flat";
    case TierMode::kGraduated:
      return "graduated";
    case TierMode::kVolume:
      return "volume";
    case TierMode::kPackage:
      return "package";
  }
  return "";
}

PriceLine FlatLine(std::string model_glob, TokenClass token_class, int64_t price_micro_per_m) {
  return {.model_glob = std::move(model_glob), .token_class = token_class, .tiers = {{0, price_micro_per_m}}};
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
  if (lines.empty() || lines.size() > kPriceLinesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected 1 to ", kPriceLinesMax, " price lines, found ", lines.size()));
  }
  std::map<std::pair<TokenClass, std::string>, std::vector<Band>> bands;
  std::map<TokenClass, size_t> catch_all;  // the first `*` line of a class
  for (size_t i = 0; i < lines.size(); ++i) {
    const PriceLine& line = lines[i];
    GANTRY_RETURN_IF_ERROR(CheckLine(i, line));
    if (line.model_glob == "*") {
      catch_all.emplace(line.token_class, i);
    } else if (catch_all.contains(line.token_class)) {
      return Bad(i, absl::StrCat("`", line.model_glob, "` comes after line ", catch_all[line.token_class],
                                 ", which takes every model; put it before that"));
    }
    bands[{line.token_class, line.model_glob}].push_back({line.context_from, line.context_to});
  }
  for (const auto& [key, found] : bands) GANTRY_RETURN_IF_ERROR(CheckBands(key.second, key.first, found));
  for (const TokenClass token_class : kTokenClasses) {
    if (catch_all.contains(token_class)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("no price line `*` for ", TokenClassName(token_class), ": every model must have a price"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> LineFor(const std::vector<PriceLine>& lines, absl::string_view model, int64_t context,
                            TokenClass token_class) {
  for (size_t i = 0; i < lines.size(); ++i) {
    const PriceLine& line = lines[i];
    if (line.token_class == token_class && context >= line.context_from &&
        (line.context_to == 0 || context < line.context_to) && GlobMatches(line.model_glob, model)) {
      return static_cast<int>(i);
    }
  }
  return absl::NotFoundError(absl::StrCat("no price for ", TokenClassName(token_class), " of model `", model, "`"));
}

absl::StatusOr<std::vector<PriceLine>> MarkedUp(std::vector<PriceLine> lines, int64_t markup_ppm) {
  constexpr int64_t kMillion = 1'000'000;
  if (markup_ppm < -kMillion || markup_ppm > 100 * kMillion) {
    return absl::InvalidArgumentError(absl::StrCat("markup_ppm: expected -1000000..100000000, found ", markup_ppm));
  }
  for (size_t i = 0; i < lines.size(); ++i) {
    for (Tier& tier : lines[i].tiers) {
      const __int128 scaled = static_cast<__int128>(tier.price_micro_per_m) * (kMillion + markup_ppm);
      const __int128 price = (scaled + kMillion - 1) / kMillion;
      if (price > kPriceMaxMicroPerM) return Bad(i, "its price with the markup passes the limit");
      tier.price_micro_per_m = static_cast<int64_t>(price);
    }
  }
  return lines;
}

}  // namespace gantry::billing
