#include <nlohmann/json.hpp>

#include "billing/document/figures.h"
#include "billing/tco/report.h"
#include "billing/tco/verdict.h"

namespace gantry::tco {
namespace {

using document::Plain;
using nlohmann::ordered_json;

// "total": "1082.762222", "total_micro": 1082762222.
void PutMoney(ordered_json* json, const std::string& name, const std::optional<int64_t>& micro) {
  (*json)[name] = micro ? ordered_json(Plain(*micro, 6)) : ordered_json();
  (*json)[name + "_micro"] = micro ? ordered_json(*micro) : ordered_json();
}

ordered_json Optional(const std::optional<int64_t>& value) {
  return value ? ordered_json(*value) : ordered_json();
}

std::string AnswerName(Answer answer) {
  switch (answer) {
    case Answer::kBuy:
      return "buy";
    case Answer::kDoNotBuy:
      return "do_not_buy";
    case Answer::kChangeSupplier:
      return "change_supplier";
    case Answer::kNever:
      return "never";
    case Answer::kOpen:
      return "depends_on_usage";
  }
  return "";
}

std::string TrialName(TrialAnswer answer) {
  switch (answer) {
    case TrialAnswer::kDoesNotDecide:
      return "does_not_decide";
    case TrialAnswer::kPays:
      return "pays";
    case TrialAnswer::kTooDear:
      return "too_dear";
    case TrialAnswer::kUsageFirst:
      return "usage_first";
  }
  return "";
}

void PutBreakEven(ordered_json* json, const BreakEven& breakeven) {
  PutMoney(json, "api_per_million_output", breakeven.blended_micro);
  (*json)["breakeven_output_tokens_per_month"] = Optional(breakeven.tokens);
  (*json)["breakeven_utilisation_ppm"] = Optional(breakeven.utilisation_ppm);
  (*json)["never"] = breakeven.never;
}

ordered_json OutcomeJson(const Outcome& outcome) {
  ordered_json json;
  PutMoney(&json, "cost_per_month_and_box", outcome.cost.total());
  json["capacity_output_tokens_per_month"] = outcome.capacity;
  PutBreakEven(&json, outcome.breakeven);
  json["boxes"] = outcome.boxes;
  json["utilisation_ppm"] = Optional(outcome.utilisation_ppm);
  PutMoney(&json, "own_per_month", outcome.own_micro);
  PutMoney(&json, "alternative_per_month", outcome.alternative_micro);
  PutMoney(&json, "saving_per_month", outcome.saving_micro());
  json["answer"] = AnswerName(outcome.answer);
  return json;
}

ordered_json CostJson(const MonthlyCost& cost) {
  ordered_json json;
  PutMoney(&json, "capital", cost.capital);
  PutMoney(&json, "maintenance", cost.maintenance);
  PutMoney(&json, "power", cost.power);
  PutMoney(&json, "hosting", cost.hosting);
  PutMoney(&json, "administration", cost.admin);
  PutMoney(&json, "total", cost.total());
  return json;
}

ordered_json ThroughputJson(const Throughput& throughput) {
  return {{"output_tokens_per_s", Plain(throughput.output_milli_per_s, 3)},
          {"prefill_tokens_per_s",
           throughput.prefill_milli_per_s ? ordered_json(Plain(*throughput.prefill_milli_per_s, 3)) : ordered_json()},
          {"derate_ppm", throughput.derate_ppm},
          {"measured", throughput.measured},
          {"source", throughput.source}};
}

ordered_json ApiJson(const Report& report, const Comparison& row) {
  const ApiPrice& api = report.input.apis[row.api];
  ordered_json json = {{"name", api.name}, {"same_model", api.same_model}};
  PutMoney(&json, "input_per_million", api.input_micro);
  PutMoney(&json, "cached_input_per_million", api.cached_micro);
  PutMoney(&json, "output_per_million", api.output_micro);
  json["source"] = api.source;
  json["date"] = absl::FormatCivilTime(api.date);
  json["age_days"] = row.age_days;
  if (!api.as_listed.empty()) json["listed"] = api.as_listed;
  PutBreakEven(&json, row.breakeven);
  PutMoney(&json, "bill_per_month", row.bill_micro);
  return json;
}

}  // namespace

std::string ReportJson(const Report& report) {
  const Input& input = report.input;
  ordered_json json = {
      {"title", input.title},
      {"date", absl::FormatCivilTime(report.today)},
      {"currency", input.currency},
      {"verdict",
       {{"answer", AnswerName(report.base.answer)}, {"title", report.verdict_title}, {"text", report.verdict_text}}},
      {"warnings", report.warnings},
      {"throughput", ThroughputJson(input.throughput)},
      {"mix",
       {{"uncached_input", input.mix.uncached}, {"cached_input", input.mix.cached}, {"output", input.mix.output}}},
      {"output_tokens_per_month", Optional(input.output_per_month)},
      {"output_tokens_from", input.output_from},
      {"months", input.months},
      {"cost_per_month", CostJson(report.base.cost)},
      {"base", OutcomeJson(report.base)},
      {"reference_api", input.apis[report.base.reference].name},
      {"apis", ordered_json::array()},
      {"sensitivities", ordered_json::array()},
      {"utilisation", ordered_json::array()},
      {"price_floors", ordered_json::array()},
      {"rates", ordered_json::array()}};
  for (const Comparison& row : report.comparisons) json["apis"].push_back(ApiJson(report, row));
  for (const Sensitivity& row : report.sensitivities) {
    ordered_json entry = OutcomeJson(row.outcome);
    entry["group"] = row.group;
    entry["name"] = row.name;
    entry["base"] = row.base;
    json["sensitivities"].push_back(std::move(entry));
  }
  for (const UtilisationRow& row : report.utilisation) {
    ordered_json entry = {{"utilisation_ppm", row.utilisation_ppm}, {"output_tokens_per_month", row.tokens}};
    PutMoney(&entry, "own_per_million_output", row.own_micro_per_m);
    PutMoney(&entry, "api_per_month", row.api_micro);
    PutMoney(&entry, "saving_per_month", row.difference_micro);
    json["utilisation"].push_back(std::move(entry));
  }
  for (const FloorRow& row : report.floors) {
    ordered_json entry = {{"utilisation_ppm", row.utilisation_ppm}, {"above_list", row.above_list}};
    PutMoney(&entry, "per_million_output", row.floor_micro_per_m);
    PutMoney(&entry, "input", row.input_micro);
    PutMoney(&entry, "cached_input", row.cached_micro);
    PutMoney(&entry, "output", row.output_micro);
    json["price_floors"].push_back(std::move(entry));
  }
  for (const ExchangeRate& rate : input.rates) {
    json["rates"].push_back({{"from", rate.from},
                             {"to", rate.to},
                             {"rate", Plain(rate.rate_micro, 6)},
                             {"source", rate.source},
                             {"date", absl::FormatCivilTime(rate.date)},
                             {"age_days", report.today - rate.date}});
  }
  if (report.trial) {
    json["trial"] = {{"answer", TrialName(report.trial->answer)},
                     {"title", report.trial_title},
                     {"text", report.trial_text},
                     {"payback_months_micro", Optional(report.trial->payback_months_micro)},
                     {"low", OutcomeJson(report.trial->low)},
                     {"high", OutcomeJson(report.trial->high)}};
    PutMoney(&json["trial"], "cost", input.trial->cost_micro);
    PutMoney(&json["trial"], "mistake", report.trial->mistake_micro);
  }
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace gantry::tco
