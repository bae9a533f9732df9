#include "billing/tco/model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "billing/document/figures.h"
#include "billing/tco/verdict.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace gantry::tco {
namespace {

using document::RoundedQuotient;

constexpr int64_t kMillion = 1'000'000;
constexpr int64_t kBoxesMax = 10'000;
constexpr int64_t kCapacityMin = 1'000'000;
// A bill and the usage that it implies differ by less than two decimals show.
constexpr int64_t kUnseenMicro = 4'999;
// APIs that give cached tokens a price take 10 to 25 % of that of others: the dearer end.
constexpr int64_t kCachedPricePpm = 250'000;
// Beyond this many tokens a month an API is as good as free.
constexpr int64_t kTokensEndless = 1'000'000'000'000'000'000;

__int128 CeilQuotient(__int128 n, __int128 d) {
  return (n + d - 1) / d;
}

int64_t Rounded(__int128 n, __int128 d) {
  return static_cast<int64_t>(RoundedQuotient(n, d));
}

int64_t Share(int64_t value_micro, int64_t ppm) {
  return Rounded(static_cast<__int128>(value_micro) * ppm, kPpm);
}

int64_t CapexMicro(const Input& input) {
  int64_t sum = 0;
  for (const HardwareItem& item : input.hardware) sum += item.count * item.price_micro;
  return sum;
}

// Price of a mix's tokens: micro-units per million times tokens.
__int128 MixPrice(const Mix& mix, const ApiPrice& api) {
  return static_cast<__int128>(mix.uncached) * api.input_micro + static_cast<__int128>(mix.cached) * api.cached_micro +
         static_cast<__int128>(mix.output) * api.output_micro;
}

size_t CheapestApi(const Input& input) {
  const bool any_same =
      std::any_of(input.apis.begin(), input.apis.end(), [](const ApiPrice& api) { return api.same_model; });
  size_t cheapest = input.apis.size();
  for (size_t i = 0; i < input.apis.size(); ++i) {
    if (any_same && !input.apis[i].same_model) continue;
    if (cheapest == input.apis.size() ||
        MixPrice(input.mix, input.apis[i]) < MixPrice(input.mix, input.apis[cheapest])) {
      cheapest = i;
    }
  }
  return cheapest;
}

Answer AnswerOf(const Outcome& outcome, const std::optional<Bill>& bill) {
  if (!outcome.own_micro) return outcome.breakeven.never ? Answer::kNever : Answer::kOpen;
  if (*outcome.own_micro < *outcome.alternative_micro) return Answer::kBuy;
  if (bill && !outcome.alternative_is_bill && *outcome.own_micro < bill->micro_per_month) {
    return Answer::kChangeSupplier;
  }
  return outcome.breakeven.never ? Answer::kNever : Answer::kDoNotBuy;
}

// As many boxes as the usage fills, and for the rest an API or one box more.
void ChooseBoxes(const Input& input, int64_t output, Outcome* outcome) {
  const int64_t full = output / outcome->capacity, rest = output % outcome->capacity;
  const int64_t rest_micro = BillOf(rest, input.mix, input.apis[outcome->reference]);
  const bool one_more = full == 0 || (rest > 0 && outcome->cost.total() <= rest_micro);
  outcome->boxes = full + (one_more ? 1 : 0);
  outcome->overflow_micro = one_more ? 0 : rest_micro;
  const __int128 own = static_cast<__int128>(outcome->boxes) * outcome->cost.total() + outcome->overflow_micro;
  outcome->own_micro = static_cast<int64_t>(std::min<__int128>(own, INT64_MAX));
  const __int128 capacity = static_cast<__int128>(outcome->boxes) * outcome->capacity;
  outcome->utilisation_ppm = Rounded(std::min<__int128>(output, capacity) * kPpm, capacity);
}

// `output`: tokens a month, the same whatever the assumptions; none: not known.
Outcome Think(const Input& input, std::optional<int64_t> output) {
  Outcome outcome;
  outcome.cost = CostOf(input);
  outcome.capacity = CapacityOf(input.throughput, input.mix);
  outcome.reference = CheapestApi(input);
  outcome.breakeven = BreakEvenOf(outcome.cost.total(), outcome.capacity, input.mix, input.apis[outcome.reference]);
  if (output) {
    ChooseBoxes(input, *output, &outcome);
    outcome.alternative_micro = BillOf(*output, input.mix, input.apis[outcome.reference]);
    if (input.bill && input.bill->micro_per_month <= *outcome.alternative_micro + kUnseenMicro) {
      outcome.alternative_micro = input.bill->micro_per_month;
      outcome.alternative_is_bill = true;
    }
  }
  outcome.answer = AnswerOf(outcome, input.bill);
  return outcome;
}

// Usage as it was said, or as much of a box as is expected.
std::optional<int64_t> OutputPerMonth(const Input& input) {
  if (input.output_per_month) return input.output_per_month;
  if (!input.expected_utilisation_ppm) return std::nullopt;
  return static_cast<int64_t>(static_cast<__int128>(CapacityOf(input.throughput, input.mix)) *
                              *input.expected_utilisation_ppm / kPpm);
}

// What is left of a price on average over `months`, when it falls by 30 % at the end of each year.
int64_t FallingPricePpm(int64_t months) {
  __int128 sum = 0, weight = 1, scale = 1;  // sum of months times 0.7^year, in units of 1/scale
  for (int64_t begun = 0; begun < months; begun += 12) {
    sum = sum * 10 + std::min<int64_t>(12, months - begun) * weight * 10;
    scale *= 10;
    weight *= 7;
  }
  return Rounded(sum * kPpm, scale * months);
}

void ScalePrices(Input* input, int64_t ppm) {
  for (ApiPrice& api : input->apis) {
    api.input_micro = Share(api.input_micro, ppm);
    api.cached_micro = Share(api.cached_micro, ppm);
    api.output_micro = Share(api.output_micro, ppm);
  }
  if (input->bill) input->bill->micro_per_month = Share(input->bill->micro_per_month, ppm);
}

class Sensitivities {
 public:
  Sensitivities(const Input& input, std::optional<int64_t> output) : input_(input), output_(output) {}

  std::vector<Sensitivity> All() {
    Capex();
    Months();
    Prices();
    Cached();
    return std::move(rows_);
  }

 private:
  void Add(const std::string& group, const std::string& name, bool base, const Input& input) {
    rows_.push_back({group, name, base, Think(input, output_)});
  }

  void Capex() {
    for (const int64_t ppm : {750'000, 1'000'000, 1'250'000}) {
      Input changed = input_;
      for (HardwareItem& item : changed.hardware) item.price_micro = Share(item.price_micro, ppm);
      Add("Price of the hardware",
          ppm == kPpm  ? "as given"
          : ppm < kPpm ? "25 % less"
                       : "25 % more",
          ppm == kPpm, changed);
    }
  }

  void Months() {
    std::vector<int64_t> months = {24, 36, 48};
    if (std::find(months.begin(), months.end(), input_.months) == months.end()) months.push_back(input_.months);
    std::sort(months.begin(), months.end());
    for (const int64_t count : months) {
      Input changed = input_;
      changed.months = count;
      Add("Months of use", absl::StrCat(count), count == input_.months, changed);
    }
  }

  void Prices() {
    Add("API prices", "stay", true, input_);
    Input changed = input_;
    ScalePrices(&changed, FallingPricePpm(input_.months));
    Add("API prices", absl::StrCat("fall 30 % a year, average of ", input_.months, " months"), false, changed);
  }

  void Cached() {
    const int64_t total = input_.mix.uncached + input_.mix.cached;
    if (total == 0) return;
    const int64_t base = Rounded(static_cast<__int128>(input_.mix.cached) * kPpm, total);
    const bool listed =
        std::all_of(input_.apis.begin(), input_.apis.end(), [](const ApiPrice& api) { return api.cached_listed; });
    const std::string group =
        absl::StrCat("Prompt tokens from the cache", listed ? "" : ", at a quarter of the price where none is listed");
    std::vector<int64_t> shares = {0, 250'000, 500'000, 750'000, 900'000};
    if (std::find(shares.begin(), shares.end(), base) == shares.end()) shares.push_back(base);
    std::sort(shares.begin(), shares.end());
    for (const int64_t ppm : shares) {
      Input changed = input_;
      if (ppm != base) {
        changed.mix.cached = Share(total, ppm);
        changed.mix.uncached = total - changed.mix.cached;
        for (ApiPrice& api : changed.apis) {
          if (!api.cached_listed) api.cached_micro = Share(api.input_micro, kCachedPricePpm);
        }
      }
      Add(group, absl::StrCat(document::Exact(ppm, 4, 0), " %"), ppm == base, changed);
    }
  }

  const Input& input_;
  const std::optional<int64_t> output_;
  std::vector<Sensitivity> rows_;
};

std::vector<UtilisationRow> UtilisationRows(const Input& input, const Outcome& base) {
  const ApiPrice& api = input.apis[base.reference];
  std::vector<UtilisationRow> rows;
  for (const int64_t ppm : {50'000, 100'000, 200'000, 300'000, 400'000, 500'000, 600'000}) {
    UtilisationRow row{.utilisation_ppm = ppm};
    row.tokens = static_cast<int64_t>(static_cast<__int128>(base.capacity) * ppm / kPpm);
    if (row.tokens == 0) continue;
    row.own_micro_per_m = Rounded(static_cast<__int128>(base.cost.total()) * kMillion, row.tokens);
    row.api_micro = BillOf(row.tokens, input.mix, api);
    row.difference_micro = row.api_micro - base.cost.total();
    rows.push_back(row);
  }
  return rows;
}

std::vector<FloorRow> Floors(const Input& input, const Outcome& base) {
  const ApiPrice& api = input.apis[base.reference];
  std::vector<int64_t> shares = input.resale_utilisations_ppm;
  if (input.expected_utilisation_ppm) shares.push_back(*input.expected_utilisation_ppm);
  std::sort(shares.begin(), shares.end());
  shares.erase(std::unique(shares.begin(), shares.end()), shares.end());
  std::vector<FloorRow> rows;
  for (const int64_t ppm : shares) {
    const __int128 tokens = static_cast<__int128>(base.capacity) * ppm;  // times kPpm
    if (tokens == 0) continue;
    FloorRow row{.utilisation_ppm = ppm};
    const __int128 cost = static_cast<__int128>(base.cost.total()) * kPpm * kMillion;
    row.floor_micro_per_m = static_cast<int64_t>(CeilQuotient(cost, tokens));
    row.above_list = row.floor_micro_per_m > base.breakeven.blended_micro;
    const int64_t blended = base.breakeven.blended_micro;
    const auto split = [&](int64_t price) {
      if (blended == 0) return int64_t{0};
      return static_cast<int64_t>(CeilQuotient(static_cast<__int128>(row.floor_micro_per_m) * price, blended));
    };
    row.input_micro = split(api.input_micro);
    row.cached_micro = split(api.cached_micro);
    row.output_micro = split(api.output_micro);
    rows.push_back(row);
  }
  return rows;
}

TrialReport ThinkTrial(const Input& input, const Outcome& base, std::optional<int64_t> output) {
  const auto at = [&](int64_t ppm) {
    Input changed = input;
    Throughput& throughput = changed.throughput;
    throughput.output_milli_per_s = std::max<int64_t>(1, Share(throughput.output_milli_per_s, ppm));
    if (throughput.prefill_milli_per_s) {
      throughput.prefill_milli_per_s = std::max<int64_t>(1, Share(*throughput.prefill_milli_per_s, ppm));
    }
    return Think(changed, output);
  };
  TrialReport trial;
  trial.low = at(input.trial->low_ppm);
  trial.high = at(input.trial->high_ppm);
  if (!output) {
    trial.answer = TrialAnswer::kUsageFirst;
    return trial;
  }
  const bool buy = base.answer == Answer::kBuy;
  if (buy && *base.saving_micro() > 0) {
    trial.payback_months_micro =
        Rounded(static_cast<__int128>(input.trial->cost_micro) * kMillion, *base.saving_micro());
  }
  // More throughput never speaks against buying: it can turn at one end only.
  const Outcome& other = buy ? trial.low : trial.high;
  if ((other.answer == Answer::kBuy) == buy) return trial;
  const __int128 mistake = static_cast<__int128>(buy ? -*other.saving_micro() : *other.saving_micro()) * input.months;
  trial.mistake_micro = static_cast<int64_t>(std::min<__int128>(mistake, INT64_MAX));
  trial.answer = mistake > input.trial->cost_micro ? TrialAnswer::kPays : TrialAnswer::kTooDear;
  return trial;
}

absl::Status CheckDay(const std::string& what, absl::CivilDay date, absl::CivilDay today) {
  // A day of grace, for whoever is ahead of this machine's calendar.
  if (date <= today + 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, " is of ", absl::FormatCivilTime(date),
                                                 ", which is yet to come: today is ", absl::FormatCivilTime(today)));
}

}  // namespace

MonthlyCost CostOf(const Input& input) {
  const __int128 capex = CapexMicro(input);
  MonthlyCost cost;
  cost.capital = Rounded(capex * (kPpm - input.residual_ppm), static_cast<__int128>(kPpm) * input.months);
  cost.maintenance = Rounded(capex * input.maintenance_ppm_per_year, static_cast<__int128>(kPpm) * 12);
  // Milliwatts times hours: 10^-6 kWh.
  cost.power = Rounded(static_cast<__int128>(input.average_milliwatts) * kHoursPerMonth *
                           input.electricity_micro_per_kwh * input.pue_ppm,
                       static_cast<__int128>(kMillion) * kPpm);
  cost.hosting = input.hosting_micro_per_month;
  cost.admin = Rounded(static_cast<__int128>(input.admin_millihours_per_month) * input.admin_micro_per_hour, 1000);
  return cost;
}

int64_t CapacityOf(const Throughput& throughput, const Mix& mix) {
  const __int128 decode = throughput.output_milli_per_s;
  const __int128 month = static_cast<__int128>(kSecondsPerMonth) * throughput.derate_ppm;  // usable seconds, times kPpm
  __int128 tokens = month * decode / kPpm / 1000;
  if (throughput.prefill_milli_per_s) {
    const __int128 prefill = *throughput.prefill_milli_per_s;
    const __int128 prompt_ppm = RoundedQuotient(static_cast<__int128>(mix.uncached) * kPpm, mix.output);
    tokens = month * decode * prefill / (prefill * kPpm + prompt_ppm * decode) / 1000;
  }
  return static_cast<int64_t>(std::max<__int128>(1, tokens));
}

BreakEven BreakEvenOf(int64_t cost_micro, int64_t capacity, const Mix& mix, const ApiPrice& api) {
  BreakEven breakeven;
  const __int128 price = MixPrice(mix, api);
  breakeven.blended_micro = Rounded(price, mix.output);
  breakeven.never = true;
  if (price == 0) return breakeven;
  const __int128 tokens = CeilQuotient(static_cast<__int128>(cost_micro) * kMillion * mix.output, price);
  if (tokens > kTokensEndless) return breakeven;
  breakeven.tokens = static_cast<int64_t>(tokens);
  const __int128 ppm = RoundedQuotient(tokens * kPpm, capacity);
  breakeven.utilisation_ppm = static_cast<int64_t>(std::min<__int128>(ppm, INT64_MAX));
  breakeven.never = tokens > capacity;
  return breakeven;
}

int64_t BillOf(int64_t output, const Mix& mix, const ApiPrice& api) {
  // The mix in units of `output` tokens first, so that each class is a whole number of tokens.
  const auto tokens = [&](int64_t part) { return RoundedQuotient(static_cast<__int128>(output) * part, mix.output); };
  const __int128 price = tokens(mix.uncached) * api.input_micro + tokens(mix.cached) * api.cached_micro +
                         static_cast<__int128>(output) * api.output_micro;
  return static_cast<int64_t>(std::min<__int128>(RoundedQuotient(price, kMillion), INT64_MAX));
}

absl::StatusOr<Report> Decide(const Input& input, absl::CivilDay today) {
  GANTRY_CHECK(!input.apis.empty() && input.mix.output > 0, "ParseInput gives a price and a mix");
  for (const ApiPrice& api : input.apis) GANTRY_RETURN_IF_ERROR(CheckDay(api.name, api.date, today));
  for (const ExchangeRate& rate : input.rates) {
    GANTRY_RETURN_IF_ERROR(CheckDay(absl::StrCat("the rate of ", rate.from), rate.date, today));
  }
  Report report;
  report.input = input;
  report.today = today;
  const std::optional<int64_t> output = OutputPerMonth(input);
  if (output && !input.output_per_month) {
    report.input.output_per_month = output;
    report.input.output_from =
        absl::StrCat("the expected ", document::Exact(*input.expected_utilisation_ppm, 4, 0), " % of the box");
  }
  report.base = Think(input, output);
  if (report.base.capacity < kCapacityMin) {
    return absl::InvalidArgumentError(absl::StrCat("a box would make ", report.base.capacity,
                                                   " output tokens a month; look at the throughput and its derate"));
  }
  if (report.base.boxes > kBoxesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the usage would need ", report.base.boxes,
                                                   " boxes; look at the throughput and at the unit of the usage"));
  }
  for (size_t i = 0; i < input.apis.size(); ++i) {
    Comparison comparison{
        .api = i,
        .breakeven = BreakEvenOf(report.base.cost.total(), report.base.capacity, input.mix, input.apis[i]),
        .age_days = static_cast<int>(today - input.apis[i].date)};
    if (output) comparison.bill_micro = BillOf(*output, input.mix, input.apis[i]);
    report.comparisons.push_back(comparison);
  }
  report.sensitivities = Sensitivities(input, output).All();
  report.utilisation = UtilisationRows(input, report.base);
  report.floors = Floors(input, report.base);
  if (input.trial) report.trial = ThinkTrial(input, report.base, output);
  PutIntoWords(&report);
  return report;
}

}  // namespace gantry::tco
