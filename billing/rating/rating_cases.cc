// Random plans x usage, rated: one JSON object a line for rating_oracle.py, which does the same with exact fractions.
//
//   rating_cases N [SEED]
#include <cstdio>
#include <cstdlib>
#include <random>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "billing/rating/rating.h"

namespace gantry::billing {
namespace {

using Random = std::mt19937_64;
using Json = nlohmann::json;

int64_t Below(Random& random, int64_t end) {
  return static_cast<int64_t>(random() % static_cast<uint64_t>(end));
}
// Small and large alike.
int64_t Sized(Random& random, int bits) {
  return static_cast<int64_t>(random() >> (63 - Below(random, bits)));
}

void AddTiers(Random& random, PriceLine* line) {
  line->mode = static_cast<TierMode>(Below(random, 4));
  line->tiers = {{0, Sized(random, 40) % (kPriceMaxMicroPerM + 1)}};
  if (line->mode == TierMode::kPackage) line->package_size = 1 + Sized(random, 24);
  if (line->mode != TierMode::kGraduated && line->mode != TierMode::kVolume) return;
  for (int64_t tiers = Below(random, 5); tiers > 0; --tiers) {
    line->tiers.push_back({line->tiers.back().from + 1 + Sized(random, 20), Sized(random, 36)});
  }
}

std::vector<PriceLine> RandomPlan(Random& random) {
  std::vector<PriceLine> lines;
  for (const TokenClass token_class : kTokenClasses) {
    for (const char* glob : {"big-*", "*"}) {
      if (glob[0] != '*' && Below(random, 2) == 0) continue;
      int64_t from = 0;
      for (int64_t bands = 1 + Below(random, 3); bands > 0; --bands) {
        PriceLine line = FlatLine(glob, token_class, 0);
        AddTiers(random, &line);
        line.context_from = from;
        from += 1 + Sized(random, 17);
        line.context_to = bands > 1 ? from : 0;
        lines.push_back(std::move(line));
      }
    }
  }
  return lines;
}

Json ToJson(const std::vector<PriceLine>& lines) {
  Json all = Json::array();
  for (const PriceLine& line : lines) {
    Json tiers = Json::array();
    for (const Tier& tier : line.tiers) tiers.push_back({tier.from, tier.price_micro_per_m});
    all.push_back({line.model_glob, TokenClassName(line.token_class), line.context_from, line.context_to,
                   TierModeName(line.mode), line.package_size, std::move(tiers)});
  }
  return all;
}

void PrintCase(Random& random) {
  const int64_t markup_ppm = Below(random, 3'000'000) - 500'000;
  const std::vector<PriceLine> base = RandomPlan(random);
  const std::vector<PriceLine> lines = MarkedUp(base, markup_ppm).value_or(std::vector<PriceLine>{});
  Json json = {{"base", ToJson(base)}, {"markup_ppm", markup_ppm}, {"lines", ToJson(lines)}};
  const absl::Status valid = ValidatePriceLines(base);
  json["valid"] = valid.ok();
  if (valid.ok() && !lines.empty()) {
    const int64_t allowance_micro = Below(random, 2) == 0 ? 0 : Sized(random, 40);
    json["allowance_micro"] = allowance_micro;
    std::vector<int64_t> units(lines.size(), 0);
    __int128 gross = 0, net = 0;
    int64_t residue = 0, posted = 0;
    Json requests = Json::array();
    for (int64_t left = 1 + Below(random, 6); left > 0; --left) {
      const char* model = Below(random, 2) == 0 ? "big-one" : "small";
      const Quantities used{Sized(random, 24), Sized(random, 24), Sized(random, 24), 1};
      const int64_t context = used.input + used.cached_input;
      auto charges = Rate(lines, model, context, used, [&](int line) { return units[static_cast<size_t>(line)]; });
      Json request = {{"model", model}, {"used", {used.input, used.cached_input, used.output, used.requests}}};
      int64_t sum = 0;
      bool fits = charges.ok();
      for (size_t i = 0; fits && i < charges->size(); ++i) {
        fits = !__builtin_add_overflow(sum, (*charges)[i].amount_pico, &sum);
      }
      if (!fits) {
        request["refused"] = true;
        requests.push_back(std::move(request));
        break;
      }
      for (const Charge& charge : *charges) {
        units[static_cast<size_t>(charge.line)] += charge.quantity;
        request["charges"].push_back({charge.line, charge.quantity, charge.amount_pico});
      }
      const int64_t charged = BeyondAllowance(gross, sum, allowance_micro);
      gross += sum;
      net += charged;
      posted += PostableMicro(charged, &residue);
      request["net_pico"] = charged;
      requests.push_back(std::move(request));
    }
    json["requests"] = std::move(requests);
    json["posted_micro"] = posted;
    json["residue_pico"] = residue;
    json["digits"] = Below(random, 4);
    json["net_minor"] = RoundToMinor(net, json["digits"].get<int>());
  }
  std::puts(json.dump().c_str());
}

}  // namespace
}  // namespace gantry::billing

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: rating_cases N [SEED]\n"), 2;
  gantry::billing::Random random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  for (long left = std::strtol(argv[1], nullptr, 10); left > 0; --left) gantry::billing::PrintCase(random);
  return 0;
}
