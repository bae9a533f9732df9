#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "billing/document/figures.h"
#include "billing/tco/report.h"
#include "billing/tco/verdict.h"

namespace gantry::tco {
namespace {

using document::Align;
using document::Exact;
using document::Figure;
using document::Row;
using document::RowKind;
using document::Tone;

std::string Amount(int64_t micro) {
  return Figure(micro, 6, 2);
}

// Of a million tokens: three decimals, because prices of cached tokens are small.
std::string Price(int64_t micro) {
  return Figure(micro, 6, 3);
}

std::string Tokens(const std::optional<int64_t>& tokens) {
  return tokens ? TokensText(*tokens) : "-";
}

std::string Utilisation(const BreakEven& breakeven) {
  if (!breakeven.utilisation_ppm) return "never";
  return absl::StrCat(PercentText(*breakeven.utilisation_ppm), breakeven.never ? " = never" : "");
}

// Savings with their sign, so that nobody has to guess the direction.
std::string Signed(const std::optional<int64_t>& micro) {
  if (!micro) return "-";
  return absl::StrCat(*micro > 0 ? "+" : "", Amount(*micro));
}

Tone ToneOf(Answer answer) {
  switch (answer) {
    case Answer::kBuy:
      return Tone::kGood;
    case Answer::kOpen:
      return Tone::kNeutral;
    default:
      return Tone::kBad;
  }
}

class ReportPage {
 public:
  explicit ReportPage(const Report& report) : report_(report), input_(report.input), base_(report.base) {}

  document::Document Take() {
    page_.title = "Own hardware or API";
    page_.subtitle = absl::StrCat(input_.title, " · ", absl::FormatCivilTime(report_.today));
    page_.issuer = input_.prepared_by;
    page_.footer = absl::StrCat(input_.title, " · ", absl::FormatCivilTime(report_.today));
    page_.created_us = absl::ToUnixMicros(absl::FromCivil(report_.today, absl::UTCTimeZone()));
    Verdict();
    Box();
    Cost();
    Comparisons();
    Sensitivities();
    Utilisations();
    Floors();
    Basis();
    return std::move(page_);
  }

 private:
  const ApiPrice& Reference() const { return input_.apis[base_.reference]; }
  std::string Per(const std::string& what) const { return absl::StrCat(input_.currency, " ", what); }

  void Verdict() {
    if (!input_.prepared_for.empty()) {
      page_.blocks.push_back(document::KeyValues{{{"Prepared for", input_.prepared_for}}});
    }
    page_.blocks.push_back(document::Note{report_.verdict_title, report_.verdict_text, ToneOf(base_.answer)});
    if (report_.trial) {
      page_.blocks.push_back(document::Note{report_.trial_title, report_.trial_text, Tone::kNeutral});
    }
    std::string warnings;
    for (const std::string& warning : report_.warnings) {
      absl::StrAppend(&warnings, warnings.empty() ? "" : "\n", warning);
    }
    if (!warnings.empty()) page_.blocks.push_back(document::Note{"Before you rely on this", warnings, Tone::kWarning});
    page_.blocks.push_back(
        document::Paragraph{"Not in any figure: what an outage of the API costs you, where your data may go, and "
                            "whether the model does the "
                            "work."});
  }

  void Box() {
    page_.blocks.push_back(document::Heading{"The box and its use"});
    const Throughput& throughput = input_.throughput;
    document::KeyValues facts;
    facts.pairs.push_back({"Throughput", absl::StrCat(Exact(throughput.output_milli_per_s, 3, 0), " output tokens/s",
                                                      throughput.measured ? ", measured" : ", not measured on this box",
                                                      " (", throughput.source, ")")});
    if (throughput.prefill_milli_per_s) {
      facts.pairs.push_back({"Prompts", absl::StrCat(Exact(*throughput.prefill_milli_per_s, 3, 0), " tokens/s")});
    }
    facts.pairs.push_back(
        {"Left of it", absl::StrCat(Exact(throughput.derate_ppm, 4, 0), " % after ",
                                    throughput.prefill_milli_per_s ? "" : "prompts, ", "peaks and downtime")});
    facts.pairs.push_back({"Capacity", absl::StrCat(TokensText(base_.capacity), " output tokens a month")});
    facts.pairs.push_back({"Mix", MixText()});
    if (input_.output_per_month) {
      facts.pairs.push_back({"Usage", absl::StrCat(TokensText(*input_.output_per_month), " output tokens a month, ",
                                                   input_.output_from)});
      if (input_.calls_per_day) facts.pairs.push_back({"A call", CallText()});
      facts.pairs.push_back({"Boxes", absl::StrCat(base_.boxes, ", used to ", PercentText(*base_.utilisation_ppm))});
    } else {
      facts.pairs.push_back({"Usage", "not known"});
    }
    if (input_.bill) {
      facts.pairs.push_back({"Paid today", absl::StrCat(input_.bill->stated, ": ",
                                                        MoneyText(report_, input_.bill->micro_per_month), " a month")});
    }
    page_.blocks.push_back(std::move(facts));
  }

  std::string MixText() const {
    const Mix& mix = input_.mix;
    const auto per_output = [&](int64_t tokens) {
      return Exact(document::RoundedQuotient(static_cast<__int128>(tokens) * 1000, mix.output), 3, 0);
    };
    return absl::StrCat(per_output(mix.uncached + mix.cached), " prompt tokens to one of output, ",
                        mix.cached == 0 ? "none" : per_output(mix.cached), " of them from the cache");
  }

  // From the month back to one call, so that the reader can hold it against what he knows.
  std::string CallText() const {
    const __int128 calls = static_cast<__int128>(*input_.calls_per_day) * 365;
    const auto per_call = [&](__int128 a_month) {
      return Figure(document::RoundedQuotient(a_month * 12, calls), 0, 0);
    };
    const __int128 output = *input_.output_per_month;
    const Mix& mix = input_.mix;
    return absl::StrCat(Figure(*input_.calls_per_day, 0, 0), " a day, each with ",
                        per_call(output * (mix.uncached + mix.cached) / mix.output), " prompt and ", per_call(output),
                        " output tokens");
  }

  void Cost() {
    page_.blocks.push_back(document::Heading{"What a box costs a month"});
    document::Table table{{{"Part"}, {"From"}, {Per("a month"), Align::kRight}, {"Share", Align::kRight}}, {}};
    __int128 capex = 0;
    for (const HardwareItem& item : input_.hardware) capex += static_cast<__int128>(item.count) * item.price_micro;
    const int64_t total = base_.cost.total();
    const auto add = [&](const std::string& part, const std::string& from, int64_t micro, RowKind kind) {
      const __int128 share = total == 0 ? 0 : document::RoundedQuotient(static_cast<__int128>(micro) * kPpm, total);
      table.rows.push_back({{part, from, Amount(micro), PercentText(static_cast<int64_t>(share))}, kind});
    };
    add("Hardware",
        absl::StrCat(Figure(capex, 6, 2), " less ", Exact(input_.residual_ppm, 4, 0), " % residual, over ",
                     input_.months, " months"),
        base_.cost.capital, RowKind::kBody);
    add("Maintenance", absl::StrCat(Exact(input_.maintenance_ppm_per_year, 4, 0), " % of the price a year"),
        base_.cost.maintenance, RowKind::kBody);
    add("Power",
        absl::StrCat(Exact(input_.average_milliwatts, 3, 0), " W on average, 730 h, ",
                     Exact(input_.electricity_micro_per_kwh, 6, 2), " a kWh, PUE ", Exact(input_.pue_ppm, 6, 1)),
        base_.cost.power, RowKind::kBody);
    add("Hosting", "rack and network", base_.cost.hosting, RowKind::kBody);
    add("Administration",
        absl::StrCat(Exact(input_.admin_millihours_per_month, 3, 0), " h at ",
                     Exact(input_.admin_micro_per_hour, 6, 2)),
        base_.cost.admin, RowKind::kBody);
    add("Total", "", total, RowKind::kTotal);
    page_.blocks.push_back(std::move(table));

    document::Table bought{
        {{"Bought"}, {"Count", Align::kRight}, {Per("each"), Align::kRight}, {Per("together"), Align::kRight}}, {}};
    for (const HardwareItem& item : input_.hardware) {
      bought.rows.push_back({{item.name, Figure(item.count, 0, 0), Amount(item.price_micro),
                              Figure(static_cast<__int128>(item.count) * item.price_micro, 6, 2)}});
    }
    bought.rows.push_back({{"Total", "", "", Figure(capex, 6, 2)}, RowKind::kTotal});
    page_.blocks.push_back(std::move(bought));
  }

  void Comparisons() {
    page_.blocks.push_back(document::Heading{"Against APIs"});
    document::Table table{{{"API"},
                           {"Model"},
                           {"Price of 1 M output with its prompts", Align::kRight},
                           {"Break-even, output tokens a month", Align::kRight},
                           {"of the box", Align::kRight}},
                          {}};
    const bool usage = input_.output_per_month.has_value();
    if (usage) {
      table.columns.push_back({"Bill of your usage", Align::kRight});
      table.columns.push_back({"Own hardware saves", Align::kRight});
    }
    for (const Comparison& row : report_.comparisons) {
      const ApiPrice& api = input_.apis[row.api];
      Row cells{{api.name, api.same_model ? "same" : "other", Price(row.breakeven.blended_micro),
                 Tokens(row.breakeven.tokens), Utilisation(row.breakeven)},
                row.api == base_.reference ? RowKind::kHighlight : RowKind::kBody};
      if (usage) {
        cells.cells.push_back(Amount(*row.bill_micro));
        cells.cells.push_back(Signed(*row.bill_micro - *base_.own_micro));
      }
      table.rows.push_back(std::move(cells));
    }
    page_.blocks.push_back(std::move(table));
    page_.blocks.push_back(
        document::Paragraph{absl::StrCat("Amounts in ", input_.currency, ". The cheapest price ",
                                         Reference().same_model ? "of the same model" : "(none is of the same model)",
                                         ", ", Reference().name, ", is what the rest of this report compares with.")});
  }

  void Sensitivities() {
    page_.blocks.push_back(document::Heading{"What if"});
    const bool usage = input_.output_per_month.has_value();
    document::Table table{{{"Assumption"},
                           {Per("a month and box"), Align::kRight},
                           {"API, 1 M output", Align::kRight},
                           {"Break-even, output tokens a month", Align::kRight},
                           {"of the box", Align::kRight}},
                          {}};
    if (usage) table.columns.push_back({"Own hardware saves", Align::kRight});
    table.columns.push_back({"Answer"});
    std::string group;
    for (const Sensitivity& row : report_.sensitivities) {
      if (row.group != group) {
        group = row.group;
        Row head{std::vector<std::string>(table.columns.size()), RowKind::kGroup};
        head.cells[0] = group;
        table.rows.push_back(std::move(head));
      }
      const Outcome& outcome = row.outcome;
      Row cells{{row.name, Amount(outcome.cost.total()), Price(outcome.breakeven.blended_micro),
                 Tokens(outcome.breakeven.tokens), Utilisation(outcome.breakeven)},
                row.base ? RowKind::kHighlight : RowKind::kBody};
      if (usage) cells.cells.push_back(Signed(outcome.saving_micro()));
      cells.cells.push_back(AnswerText(outcome.answer));
      table.rows.push_back(std::move(cells));
    }
    page_.blocks.push_back(std::move(table));
  }

  void Utilisations() {
    page_.blocks.push_back(document::Heading{"By utilisation"});
    document::Table table{{{"Used to", Align::kRight},
                           {"Output tokens a month", Align::kRight},
                           {"Own, 1 M output", Align::kRight},
                           {"API for the same", Align::kRight},
                           {"Own hardware saves", Align::kRight}},
                          {}};
    for (const UtilisationRow& row : report_.utilisation) {
      table.rows.push_back({{absl::StrCat(Exact(row.utilisation_ppm, 4, 0), " %"), TokensText(row.tokens),
                             Price(row.own_micro_per_m), Amount(row.api_micro), Signed(row.difference_micro)}});
    }
    page_.blocks.push_back(std::move(table));
  }

  void Floors() {
    page_.blocks.push_back(document::Heading{"Lowest price when reselling"});
    page_.blocks.push_back(document::Paragraph{absl::StrCat(
        "Below these prices of a million tokens the box does not earn its cost, by how much of it is sold. "
        "Split between the classes as ",
        Reference().name,
        " does. A floor above its list price will find no buyer without another reason: "
        "ask for a minimum commitment.")});
    document::Table table{{{"Sold", Align::kRight},
                           {"1 M output with its prompts", Align::kRight},
                           {"Input", Align::kRight},
                           {"Cached input", Align::kRight},
                           {"Output", Align::kRight},
                           {"Against the list price"}},
                          {}};
    for (const FloorRow& row : report_.floors) {
      table.rows.push_back(
          {{absl::StrCat(Exact(row.utilisation_ppm, 4, 0), " %"), Price(row.floor_micro_per_m), Price(row.input_micro),
            Price(row.cached_micro), Price(row.output_micro), row.above_list ? "above" : "below"},
           row.utilisation_ppm == input_.expected_utilisation_ppm ? RowKind::kHighlight : RowKind::kBody});
    }
    page_.blocks.push_back(std::move(table));
  }

  void Basis() {
    page_.blocks.push_back(document::Heading{"What this rests on"});
    const auto age = [&](absl::CivilDay date) { return absl::StrCat(report_.today - date, " days"); };
    document::Table table{{{Per("per 1 M tokens")},
                           {"Input", Align::kRight},
                           {"Cached", Align::kRight},
                           {"Output", Align::kRight},
                           {"Source"},
                           {"Of"},
                           {"Age", Align::kRight}},
                          {}};
    for (const ApiPrice& api : input_.apis) {
      const std::string source =
          api.as_listed.empty() ? api.source : absl::StrCat(api.source, ", listed as ", api.as_listed);
      table.rows.push_back({{api.name, Exact(api.input_micro, 6, 2), Exact(api.cached_micro, 6, 2),
                             Exact(api.output_micro, 6, 2), source, absl::FormatCivilTime(api.date), age(api.date)}});
    }
    page_.blocks.push_back(std::move(table));
    if (!input_.rates.empty()) {
      document::Table rates{{{"Rate"}, {"For one", Align::kRight}, {"Source"}, {"Of"}, {"Age", Align::kRight}}, {}};
      for (const ExchangeRate& rate : input_.rates) {
        rates.rows.push_back({{absl::StrCat(rate.from, " in ", rate.to), Exact(rate.rate_micro, 6, 2), rate.source,
                               absl::FormatCivilTime(rate.date), age(rate.date)}});
      }
      page_.blocks.push_back(std::move(rates));
    }
    page_.blocks.push_back(document::Paragraph{
        "A month is a twelfth of 365 days. Cost = price x (1 - residual) / months + price x maintenance / 12 + kW x "
        "730 h "
        "x tariff x PUE + hosting + administration. Capacity = 2,628,000 s x tokens/s x what is left of it. Break-even "
        "= "
        "cost / API price of a million output tokens with their prompts. Computed in whole millionths of a unit of "
        "currency."});
  }

  const Report& report_;
  const Input& input_;
  const Outcome& base_;
  document::Document page_;
};

}  // namespace

document::Document ReportDocument(const Report& report) {
  return ReportPage(report).Take();
}

}  // namespace gantry::tco
