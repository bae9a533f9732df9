#include "billing/tco/verdict.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "billing/document/figures.h"

namespace gantry::tco {
namespace {

using document::Figure;

constexpr int64_t kBillDoubtPpm = 200'000;  // a bill further off from the usage than this is remarked on
constexpr int64_t kUtilisationHighPpm = 850'000;

const ApiPrice& Reference(const Report& report) {
  return report.input.apis[report.base.reference];
}

std::string BoxesText(const Report& report) {
  std::string text = report.base.boxes == 1 ? "" : absl::StrCat(" for ", report.base.boxes, " boxes");
  if (report.base.overflow_micro > 0) {
    absl::StrAppend(&text, ", ", MoneyText(report, report.base.overflow_micro), " of it to ", Reference(report).name,
                    " for what they cannot do");
  }
  return text;
}

// "It pays from 347 M output tokens a month, 14.4 % of what a box can do."
std::string PaysFrom(const Report& report) {
  const BreakEven& breakeven = report.base.breakeven;
  if (!breakeven.tokens) return absl::StrCat(Reference(report).name, " costs nothing.");
  return absl::StrCat("Against ", Reference(report).name, " a box pays from ", TokensText(*breakeven.tokens),
                      " output tokens a month, ", PercentText(*breakeven.utilisation_ppm), " of what it can do.");
}

std::string Alternative(const Report& report) {
  return report.base.alternative_is_bill ? "today's bill" : Reference(report).name;
}

// Whether the cheapest alternative runs another model than the box would.
bool IsOfAnotherModel(const Report& report) {
  if (!report.base.alternative_is_bill) return !Reference(report).same_model;
  const auto& apis = report.input.apis;
  return std::any_of(apis.begin(), apis.end(),
                     [&](const ApiPrice& api) { return api.name == report.input.bill->api && !api.same_model; });
}

// The sensitivities that answer otherwise than the base.
std::string Turning(const Report& report) {
  const bool buy = report.base.answer == Answer::kBuy;
  std::vector<std::string> turns;
  for (const Sensitivity& row : report.sensitivities) {
    if (row.base || (row.outcome.answer == Answer::kBuy) == buy) continue;
    turns.push_back(absl::StrCat(row.group, ": ", row.name));
  }
  if (turns.empty()) return "No assumption varied below turns the answer.";
  return absl::StrCat("The answer turns with: ", absl::StrJoin(turns, "; "), ".");
}

// A model that is not the same and cheaper than all: worth a thought, no verdict.
std::string OtherModel(const Report& report) {
  if (!report.base.own_micro) return "";
  const int64_t best = std::min(*report.base.own_micro, *report.base.alternative_micro);
  const Comparison* cheapest = nullptr;
  for (const Comparison& row : report.comparisons) {
    if (report.input.apis[row.api].same_model || !row.bill_micro || *row.bill_micro >= best) continue;
    if (cheapest == nullptr || *row.bill_micro < *cheapest->bill_micro) cheapest = &row;
  }
  if (cheapest == nullptr) return "";
  return absl::StrCat(" Another model, ", report.input.apis[cheapest->api].name, ", would cost ",
                      MoneyText(report, *cheapest->bill_micro), ": less than either, if it does your work.");
}

void PutVerdict(Report* report) {
  const Outcome& base = report->base;
  std::string& text = report->verdict_text;
  const std::string usage = report->input.output_per_month
                                ? absl::StrCat("At ", TokensText(*report->input.output_per_month),
                                               " output tokens a month own hardware costs ",
                                               MoneyText(*report, *base.own_micro), " a month", BoxesText(*report))
                                : "";
  switch (base.answer) {
    case Answer::kBuy:
      report->verdict_title = "Buy";
      text = absl::StrCat(usage, ", ", MoneyText(*report, *base.saving_micro()), " less than ", Alternative(*report),
                          " with ", MoneyText(*report, *base.alternative_micro), ". ", PaysFrom(*report), " ",
                          Turning(*report));
      break;
    case Answer::kDoNotBuy:
      report->verdict_title = "Do not buy";
      text = absl::StrCat(usage, ", ", MoneyText(*report, -*base.saving_micro()), " more than ", Alternative(*report),
                          " with ", MoneyText(*report, *base.alternative_micro), ". ", PaysFrom(*report), " ",
                          Turning(*report));
      break;
    case Answer::kChangeSupplier:
      report->verdict_title = "Do not buy: change the supplier";
      text =
          absl::StrCat(usage, ", less than today's bill of ", MoneyText(*report, report->input.bill->micro_per_month),
                       "; but ", Reference(*report).name, " takes ", MoneyText(*report, *base.alternative_micro),
                       " for the same. ", PaysFrom(*report), " ", Turning(*report));
      break;
    case Answer::kNever:
      report->verdict_title = "Do not buy: never at these prices";
      text = absl::StrCat("Even at full use a box costs more than ", Reference(*report).name, ": ",
                          MoneyText(*report, base.cost.total()), " a month for ", TokensText(base.capacity),
                          " output tokens, which cost ",
                          MoneyText(*report, BillOf(base.capacity, report->input.mix, Reference(*report))), " there");
      if (base.breakeven.utilisation_ppm) {
        absl::StrAppend(&text, "; it would have to do ", PercentText(*base.breakeven.utilisation_ppm),
                        " of what it can do");
      }
      absl::StrAppend(&text, ". ", Turning(*report));
      break;
    case Answer::kOpen:
      report->verdict_title = "It depends on your usage";
      text = absl::StrCat("A box costs ", MoneyText(*report, base.cost.total()), " a month. ", PaysFrom(*report),
                          " With less than that, do not buy.");
      break;
  }
  if (base.answer == Answer::kBuy && IsOfAnotherModel(*report)) {
    absl::StrAppend(&text,
                    " What it is compared with is another model: this holds only if yours does the work as well.");
  }
  absl::StrAppend(&text, OtherModel(*report));
}

void PutTrial(Report* report) {
  const TrialReport& trial = *report->trial;
  const Input& input = report->input;
  const auto speed = [&](int64_t ppm) {
    return Figure(static_cast<__int128>(input.throughput.output_milli_per_s) * ppm, 9, 0);
  };
  const std::string range =
      absl::StrCat("from ", speed(input.trial->low_ppm), " to ", speed(input.trial->high_ppm), " tokens/s");
  const std::string cost = MoneyText(*report, input.trial->cost_micro);
  const bool buy = report->base.answer == Answer::kBuy;
  std::string& text = report->trial_text;
  switch (trial.answer) {
    case TrialAnswer::kUsageFirst:
      report->trial_title = "The trial does not decide";
      text = absl::StrCat(
          "As long as the usage is not known, no throughput answers the question. Count your tokens "
          "first: that costs nothing.");
      break;
    case TrialAnswer::kDoesNotDecide:
      report->trial_title = "The trial does not decide";
      text = absl::StrCat("Wherever the throughput lies, ", range,
                          ", the answer is the same: ", AnswerText(report->base.answer), ". For ", cost,
                          " it can show whether the model does your work, nothing about the money.");
      break;
    case TrialAnswer::kPays:
      report->trial_title = "The trial pays";
      text = absl::StrCat("The throughput, ", range, ", decides. ",
                          buy ? "Bought without a trial, a box at the lower end would lose "
                              : "Not bought, a box at the upper end would have saved ",
                          MoneyText(*report, trial.mistake_micro), " in ", input.months, " months; the trial costs ",
                          cost, ".");
      break;
    case TrialAnswer::kTooDear:
      report->trial_title = "The trial costs more than it can save";
      text = absl::StrCat("The throughput, ", range, ", would decide, but the mistake that a trial prevents costs ",
                          MoneyText(*report, trial.mistake_micro), " in ", input.months, " months, and the trial ",
                          cost, ".");
      break;
  }
  if (trial.payback_months_micro) {
    absl::StrAppend(&text, " What own hardware saves pays for the trial in ", Figure(*trial.payback_months_micro, 6, 1),
                    " months.");
  }
}

// One line for all that is old, so that other warnings are not lost among them.
void WarnOfAge(Report* report) {
  int count = 0;
  int64_t oldest_days = 0;
  std::string oldest;
  const auto look = [&](const std::string& what, absl::CivilDay date) {
    const int64_t days = report->today - date;
    count += days > kPriceAgeDaysMax;
    if (days <= oldest_days) return;
    oldest_days = days;
    oldest = absl::StrCat(what, ", ", days, " days old, of ", absl::FormatCivilTime(date));
  };
  for (const ApiPrice& api : report->input.apis) look(absl::StrCat("the price of ", api.name), api.date);
  for (const ExchangeRate& rate : report->input.rates) {
    look(absl::StrCat("the rate of ", rate.from, " to ", rate.to), rate.date);
  }
  if (count == 0) return;
  report->warnings.push_back(absl::StrCat(count, count == 1 ? " price or rate is" : " prices and rates are",
                                          " older than ", kPriceAgeDaysMax, " days (the oldest: ", oldest,
                                          "): ask again before you decide."));
}

void PutWarnings(Report* report) {
  const Input& input = report->input;
  WarnOfAge(report);
  if (!input.throughput.measured) {
    report->warnings.push_back(absl::StrCat("The throughput was not measured on the box to be bought (",
                                            input.throughput.source,
                                            "): measure it with `gantry-engine bench --json`, or in a trial."));
  }
  if (std::none_of(input.apis.begin(), input.apis.end(), [](const ApiPrice& api) { return api.same_model; })) {
    report->warnings.push_back("No price is of the model that the box would run: the answers may differ in worth.");
  }
  if (report->base.utilisation_ppm && *report->base.utilisation_ppm > kUtilisationHighPpm) {
    report->warnings.push_back(absl::StrCat("At ", PercentText(*report->base.utilisation_ppm),
                                            " of what the box can do on average, requests will queue at peak hours."));
  }
  if (!input.bill || input.bill->api.empty() || !input.output_per_month) return;
  for (const Comparison& row : report->comparisons) {
    if (input.apis[row.api].name != input.bill->api || !row.bill_micro) continue;
    const __int128 bill = input.bill->micro_per_month, expected = *row.bill_micro;
    const __int128 apart = bill > expected ? bill - expected : expected - bill;
    if (apart * kPpm <= expected * kBillDoubtPpm) continue;
    report->warnings.push_back(absl::StrCat("The bill of ", input.bill->stated, " is ",
                                            MoneyText(*report, input.bill->micro_per_month),
                                            " a month, but this usage costs ", MoneyText(*report, *row.bill_micro),
                                            " at ", input.bill->api, ": one of them is not what it seems."));
  }
}

}  // namespace

std::string MoneyText(const Report& report, int64_t micro) {
  return absl::StrCat(report.input.currency, " ", Figure(micro, 6, 2));
}

std::string TokensText(int64_t tokens) {
  return absl::StrCat(Figure(tokens, 6, tokens < 10'000'000 ? 1 : 0), " M");
}

std::string PercentText(int64_t ppm) {
  return absl::StrCat(Figure(ppm, 4, 1), " %");
}

std::string AnswerText(Answer answer) {
  switch (answer) {
    case Answer::kBuy:
      return "buy";
    case Answer::kDoNotBuy:
      return "do not buy";
    case Answer::kChangeSupplier:
      return "change supplier";
    case Answer::kNever:
      return "never";
    case Answer::kOpen:
      return "depends on usage";
  }
  return "";
}

void PutIntoWords(Report* report) {
  PutVerdict(report);
  if (report->trial) PutTrial(report);
  PutWarnings(report);
}

}  // namespace gantry::tco
