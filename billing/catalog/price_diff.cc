#include "billing/catalog/price_diff.h"

#include <algorithm>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace gantry::billing {
namespace {

// A model name that the glob matches: as good as any to find the line that serves its models.
std::string ExampleOf(const std::string& glob) {
  return absl::StrReplaceAll(glob, {{"*", "any"}, {"?", "x"}});
}

struct UnitPrice {
  int64_t micro_per_m = -1;  // -1: there is no line
  int64_t package_size = 0;
  TierMode mode = TierMode::kFlat;
};

UnitPrice PriceAt(const std::vector<PriceLine>& lines, const std::string& model, TokenClass token_class,
                  int64_t context, int64_t units_before) {
  const absl::StatusOr<int> index = LineFor(lines, model, context, token_class);
  if (!index.ok()) return {};
  const PriceLine& line = lines[static_cast<size_t>(*index)];
  size_t tier = line.tiers.size() - 1;
  while (tier > 0 && line.tiers[tier].from > units_before) --tier;
  return {line.tiers[tier].price_micro_per_m, line.package_size, line.mode};
}

// Dearer for at least one customer: a larger package or volume in place of graduated tiers may be.
bool Dearer(const UnitPrice& from, const UnitPrice& to) {
  if (from.micro_per_m < 0 || to.micro_per_m < 0) return false;
  return to.micro_per_m > from.micro_per_m || to.package_size > from.package_size;
}

}  // namespace

std::vector<v1::PriceChange> DiffPrices(const std::vector<PriceLine>& from, const std::vector<PriceLine>& to) {
  std::set<std::string> globs;
  std::set<int64_t> contexts{0}, units{0};
  for (const auto* lines : {&from, &to}) {
    for (const PriceLine& line : *lines) {
      globs.insert(line.model_glob);
      contexts.insert(line.context_from);
      for (const Tier& tier : line.tiers) units.insert(tier.from);
    }
  }
  std::vector<v1::PriceChange> changes;
  for (const TokenClass token_class : kTokenClasses) {
    for (const std::string& glob : globs) {
      for (const int64_t context : contexts) {
        for (const int64_t before : units) {
          const UnitPrice old_price = PriceAt(from, ExampleOf(glob), token_class, context, before);
          const UnitPrice new_price = PriceAt(to, ExampleOf(glob), token_class, context, before);
          const bool same = old_price.micro_per_m == new_price.micro_per_m && old_price.mode == new_price.mode &&
                            old_price.package_size == new_price.package_size;
          if (same) continue;
          v1::PriceChange change;
          change.set_what(absl::StrCat(TokenClassName(token_class), " of `", glob, "`, contexts from ", context,
                                       ", units from ", before));
          change.set_from_micro_per_m(old_price.micro_per_m);
          change.set_to_micro_per_m(new_price.micro_per_m);
          change.set_dearer(Dearer(old_price, new_price));
          changes.push_back(std::move(change));
        }
      }
    }
  }
  return changes;
}

}  // namespace gantry::billing
