// Own hardware against APIs, month by month. Pure: the same input gives the same report, bit by bit.
//
//   cost      = capex (1 - residual) / months + capex x maintenance / 12 + kW x 730 h x tariff x PUE + hosting + admin
//   capacity  = output tokens a month at full use: 2,628,000 s x derate x tokens/s; with a known prefill rate p, output
//               rate d and u computed prompt tokens per output token: 2,628,000 s x derate / (1/d + u/p)
//   blended   = API price of one million output tokens with the prompt tokens that belong to them
//   breakeven = cost / blended, in output tokens a month and as a share of capacity; above 100 %: never
//
// Rounding: each part of the cost half away from zero to a micro-unit, totals are sums of rounded parts; capacity down
// and break-even up to whole tokens; bills half away from zero; price floors up. Products and sums in __int128.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/tco/input.h"

namespace gantry::tco {

inline constexpr int kPriceAgeDaysMax = 90;  // older prices are warned of

struct MonthlyCost {
  int64_t capital = 0, maintenance = 0, power = 0, hosting = 0, admin = 0;  // micro
  int64_t total() const { return capital + maintenance + power + hosting + admin; }
};

struct BreakEven {
  int64_t blended_micro = 0;      // API price per million output tokens, prompts included
  std::optional<int64_t> tokens;  // output tokens a month; none: the API is (nearly) free
  std::optional<int64_t> utilisation_ppm;
  bool never = false;  // more than a box can do
};

struct Comparison {
  size_t api = 0;  // in Input::apis
  BreakEven breakeven;
  std::optional<int64_t> bill_micro;  // of the usage, a month
  int age_days = 0;
};

enum class Answer {
  kBuy,
  kDoNotBuy,        // the usage is too small
  kChangeSupplier,  // own hardware beats today's bill, another supplier of the same model beats both
  kNever,           // not even at full use
  kOpen,            // the usage is not known
};

// One set of assumptions thought through.
struct Outcome {
  MonthlyCost cost;      // of one box
  int64_t capacity = 0;  // output tokens a month of one box
  int64_t boxes = 1;     // that the usage needs: full ones, and one more when that is cheaper than an API for the rest
  size_t reference = 0;  // the cheapest API of the same model, of any model if there is none
  BreakEven breakeven;   // against the reference
  Answer answer = Answer::kOpen;
  // When the usage is known:
  std::optional<int64_t> own_micro;          // all boxes and the overflow, a month
  int64_t overflow_micro = 0;                // of it: what the boxes cannot do, at the reference's price
  std::optional<int64_t> alternative_micro;  // the cheapest one: today's bill or the reference, a month
  bool alternative_is_bill = false;
  std::optional<int64_t> utilisation_ppm;  // of all boxes

  std::optional<int64_t> saving_micro() const {  // a month; negative: own hardware costs more
    if (!own_micro) return std::nullopt;
    return *alternative_micro - *own_micro;
  }
};

struct Sensitivity {
  std::string group, name;
  bool base = false;  // the assumption made
  Outcome outcome;
};

// The box used by so much, and everything it makes is worth the reference's price.
struct UtilisationRow {
  int64_t utilisation_ppm = 0;
  int64_t tokens = 0;            // output, a month
  int64_t own_micro_per_m = 0;   // per million output tokens
  int64_t api_micro = 0;         // what the reference takes for them, a month
  int64_t difference_micro = 0;  // API - own
};

// Below this, reselling loses money.
struct FloorRow {
  int64_t utilisation_ppm = 0;
  int64_t floor_micro_per_m = 0;                                // per million output tokens, prompts included
  int64_t input_micro = 0, cached_micro = 0, output_micro = 0;  // the same, split as the reference's prices are
  bool above_list = false;                                      // dearer than the reference
};

enum class TrialAnswer {
  kDoesNotDecide,  // the answer is the same wherever the throughput lies
  kPays,           // it can turn the answer, and a mistake costs more than the trial
  kTooDear,        // it can turn the answer, and costs more than the mistake
  kUsageFirst,     // the usage is not known
};

struct TrialReport {
  TrialAnswer answer = TrialAnswer::kDoesNotDecide;
  Outcome low, high;
  int64_t mistake_micro = 0;                    // over all months
  std::optional<int64_t> payback_months_micro;  // out of the saving, when the answer is to buy
};

struct Report {
  Input input;
  absl::CivilDay today;
  Outcome base;
  std::vector<Comparison> comparisons;  // one an API, in the order given
  std::vector<Sensitivity> sensitivities;
  std::vector<UtilisationRow> utilisation;
  std::vector<FloorRow> floors;
  std::optional<TrialReport> trial;
  std::vector<std::string> warnings;
  // In words:
  std::string verdict_title, verdict_text;
  std::string trial_title, trial_text;  // empty without a trial
};

// INVALID_ARGUMENT: a price or rate of the future, a usage beyond 10,000 boxes, a box that makes less than a million
// output tokens a month.
absl::StatusOr<Report> Decide(const Input& input, absl::CivilDay today);

// Parts of it, for those who ask less.
MonthlyCost CostOf(const Input& input);
int64_t CapacityOf(const Throughput& throughput, const Mix& mix);
BreakEven BreakEvenOf(int64_t cost_micro, int64_t capacity, const Mix& mix, const ApiPrice& api);
// What `output` output tokens and their prompts cost.
int64_t BillOf(int64_t output, const Mix& mix, const ApiPrice& api);

}  // namespace gantry::tco
