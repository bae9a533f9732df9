#include "billing/tco/input.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "billing/document/figures.h"
#include "billing/tco/bench.h"
#include "billing/tco/toml_reader.h"
#include "engine/base/status_macros.h"

namespace gantry::tco {
namespace {

using document::RoundedQuotient;
using Range = TomlReader::Range;

// Bounds keep every product of the model inside 128 bits, and every result inside 64.
constexpr int64_t kMicro = 1'000'000;
constexpr Range kMoney{6, 0, 100'000'000 * kMicro};
constexpr Range kTokenPrice{6, 0, 10'000 * kMicro};
constexpr Range kKwhPrice{6, 0, 100 * kMicro};
constexpr Range kRate{6, 1, 1'000 * kMicro};
constexpr Range kPercent{4, 0, kPpm};          // in parts per million
constexpr Range kSomePercent{4, 1'000, kPpm};  // a tenth of a percent at least
constexpr Range kTokensPerSecond{3, 1, 1'000'000'000};
constexpr Range kTokensPerCall{0, 0, 10'000'000};
constexpr Range kCallsPerDay{0, 1, 1'000'000'000};
constexpr Range kTokensPerMonth{0, 0, 100'000'000'000'000};
constexpr Range kRatio{6, 0, 10'000 * kMicro};
constexpr size_t kItemsMax = 100, kApisMax = 50, kRatesMax = 20;

class InputReader {
 public:
  InputReader(const toml::table& table, const ParseOptions& options)
      : options_(options), root_(&table, "", &options.file_name, &status_) {}

  absl::StatusOr<Input> Read() {
    input_.title = root_.Text("title", "Own hardware or an API");
    input_.prepared_by = root_.Text("prepared_by", "");
    input_.prepared_for = root_.Text("prepared_for", "");
    input_.currency = Currency(&root_, root_.Text("currency"));
    ReadRates();
    ReadHardware();
    ReadRunning();
    ReadApis();
    ReadThroughput();
    ReadUsage();
    ReadBill();
    ReadTrial();
    TomlReader resale = root_.Table("resale");
    input_.resale_utilisations_ppm = resale.Decimals("utilisation_percent", kSomePercent,
                                                     {50'000, 100'000, 200'000, 300'000, 400'000, 600'000, kPpm});
    resale.Finish();
    root_.Finish();
    if (!status_.ok()) return status_;
    return std::move(input_);
  }

 private:
  std::string Currency(TomlReader* reader, const std::string& code) {
    if (code != "CNY" && code != "EUR" && code != "USD") {
      reader->Fail("currency", absl::StrCat("expected CNY, EUR or USD, found \"", code.substr(0, 60), "\""));
    }
    return code;
  }

  // Amounts of a table are in its own `currency`, if it says one.
  std::string CurrencyOf(TomlReader* reader) { return Currency(reader, reader->Text("currency", input_.currency)); }

  int64_t Convert(TomlReader* reader, const std::string& key, int64_t micro, const std::string& from, int64_t max) {
    if (from == input_.currency || reader->failed()) return micro;
    for (const ExchangeRate& rate : input_.rates) {
      __int128 converted;
      if (rate.from == from && rate.to == input_.currency) {
        converted = RoundedQuotient(static_cast<__int128>(micro) * rate.rate_micro, kMicro);
      } else if (rate.to == from && rate.from == input_.currency) {
        converted = RoundedQuotient(static_cast<__int128>(micro) * kMicro, rate.rate_micro);
      } else {
        continue;
      }
      if (converted <= max) return static_cast<int64_t>(converted);
      reader->Fail(key, absl::StrCat("is more than ", document::Exact(max, 6, 0), " ", input_.currency));
      return 0;
    }
    reader->Fail(key, absl::StrCat("is in ", from, ", and there is no rate to ", input_.currency,
                                   ": add one under [[rate]] with from, to, rate, source and date"));
    return 0;
  }

  int64_t Money(TomlReader* reader, const std::string& key, const Range& range, const std::string& currency,
                std::optional<int64_t> otherwise = std::nullopt) {
    return Convert(reader, key, reader->Decimal(key, range, otherwise), currency, range.max);
  }

  void ReadRates() {
    for (TomlReader& reader : root_.Tables("rate", kRatesMax)) {
      ExchangeRate rate;
      rate.from = reader.Text("from");
      rate.to = reader.Text("to");
      rate.rate_micro = reader.Decimal("rate", kRate);
      rate.source = reader.Text("source");
      rate.date = reader.Day("date");
      reader.Finish();
      input_.rates.push_back(std::move(rate));
    }
  }

  void ReadHardware() {
    TomlReader hardware = root_.Table("hardware");
    input_.months = hardware.Decimal("months", {0, 1, 120}, 36);
    input_.residual_ppm = hardware.Decimal("residual_percent", kPercent, 0);
    __int128 sum = 0;
    for (TomlReader& reader : hardware.Tables("item", kItemsMax)) {
      HardwareItem item;
      item.name = reader.Text("name");
      item.count = reader.Decimal("count", {0, 1, 10'000}, 1);
      item.price_micro = Money(&reader, "price", kMoney, CurrencyOf(&reader));
      reader.Finish();
      sum += static_cast<__int128>(item.count) * item.price_micro;
      input_.hardware.push_back(std::move(item));
    }
    if (input_.hardware.empty()) hardware.Fail("item", "is missing: what is bought, each under [[hardware.item]]");
    if (sum > kMoney.max) hardware.Fail("item", "adds up to more than 100,000,000");
    hardware.Finish();
  }

  void ReadRunning() {
    TomlReader running = root_.Table("running");
    const std::string currency = CurrencyOf(&running);
    input_.maintenance_ppm_per_year = running.Decimal("maintenance_percent_per_year", kPercent);
    input_.average_milliwatts = running.Decimal("average_power_watts", {3, 0, 100'000'000});
    input_.electricity_micro_per_kwh = Money(&running, "electricity_per_kwh", kKwhPrice, currency);
    input_.pue_ppm = running.Decimal("pue", {6, kPpm, 5 * kPpm}, kPpm);
    input_.hosting_micro_per_month = Money(&running, "hosting_per_month", kMoney, currency, 0);
    input_.admin_millihours_per_month = running.Decimal("admin_hours_per_month", {3, 0, 10'000'000}, 0);
    const bool admin = input_.admin_millihours_per_month > 0;
    input_.admin_micro_per_hour = Money(&running, "admin_per_hour", {6, 0, 10'000 * kMicro}, currency,
                                        admin ? std::nullopt : std::optional<int64_t>(0));
    running.Finish();
  }

  void ReadApis() {
    for (TomlReader& reader : root_.Tables("api", kApisMax)) {
      ApiPrice api;
      const std::string currency = CurrencyOf(&reader);
      api.name = reader.Text("name");
      const int64_t input = reader.Decimal("input", kTokenPrice), output = reader.Decimal("output", kTokenPrice);
      api.cached_listed = reader.Has("cached_input");
      const int64_t cached = reader.Decimal("cached_input", kTokenPrice, input);
      api.input_micro = Convert(&reader, "input", input, currency, kTokenPrice.max);
      api.cached_micro = Convert(&reader, "cached_input", cached, currency, kTokenPrice.max);
      api.output_micro = Convert(&reader, "output", output, currency, kTokenPrice.max);
      if (currency != input_.currency) {
        api.as_listed = absl::StrCat(currency, " ", document::Exact(input, 6, 2), " / ", document::Exact(cached, 6, 2),
                                     " / ", document::Exact(output, 6, 2));
      }
      api.same_model = reader.Bool("same_model");
      api.source = reader.Text("source");
      api.date = reader.Day("date");
      reader.Finish();
      for (const ApiPrice& other : input_.apis) {
        if (other.name == api.name) reader.Fail("name", absl::StrCat("\"", api.name, "\" is there twice"));
      }
      input_.apis.push_back(std::move(api));
    }
    if (input_.apis.empty()) root_.Fail("api", "is missing: at least one price to compare with, under [[api]]");
  }

  void ReadThroughput() {
    TomlReader reader = root_.Table("throughput");
    const int64_t batch = reader.Decimal("batch", {0, 1, 100'000}, 0);
    const bool with_prefill = reader.Bool("prefill_from_bench", false);
    const std::string path = reader.Text("bench", "");
    Throughput typed;
    if (options_.bench) {
      absl::StatusOr<Throughput> bench = ThroughputOfBench(*options_.bench, batch, with_prefill);
      if (!bench.ok()) {
        reader.Fail("bench", std::string(bench.status().message()));
      } else {
        typed = *std::move(bench);
      }
      // What the file says beside it is not needed then.
      reader.Decimal("output_tokens_per_s", kTokensPerSecond, 1);
      reader.Decimal("prefill_tokens_per_s", kTokensPerSecond, 1);
      reader.Bool("measured", false);
      reader.Text("source", "");
    } else {
      if (!path.empty()) reader.Fail("bench", absl::StrCat("\"", path, "\" was not read"));
      typed.output_milli_per_s = reader.Decimal("output_tokens_per_s", kTokensPerSecond);
      if (reader.Has("prefill_tokens_per_s")) {
        typed.prefill_milli_per_s = reader.Decimal("prefill_tokens_per_s", kTokensPerSecond);
      }
      typed.measured = reader.Bool("measured", false);
      typed.source = reader.Text("source");
    }
    typed.derate_ppm = reader.Decimal("derate_percent", kSomePercent);
    reader.Finish();
    input_.throughput = std::move(typed);
  }

  void ReadUsage() {
    TomlReader usage = root_.Table("usage");
    const bool by_call = usage.Has("output_tokens_per_call"), by_month = usage.Has("output_tokens_per_month");
    if (usage.Has("calls_per_day")) input_.calls_per_day = usage.Decimal("calls_per_day", kCallsPerDay);
    if (by_call && by_month) {
      usage.Fail("output_tokens_per_month", "is said together with output_tokens_per_call: say one of them");
    } else if (by_call) {
      ReadTokens(&usage, "_tokens_per_call", kTokensPerCall);
      if (!input_.calls_per_day) usage.Fail("calls_per_day", "is missing beside output_tokens_per_call");
      if (!usage.failed()) {
        SetOutput(&usage, RoundedQuotient(static_cast<__int128>(*input_.calls_per_day) * input_.mix.output * 365, 12),
                  absl::StrCat(document::Figure(*input_.calls_per_day, 0, 0), " calls a day"));
      }
    } else if (by_month) {
      ReadTokens(&usage, "_tokens_per_month", kTokensPerMonth);
      SetOutput(&usage, input_.mix.output, "as stated");
    } else {
      const int64_t input = usage.Decimal("input_per_output", kRatio);
      const int64_t cached_ppm = usage.Decimal("cached_percent", kPercent, 0);
      const auto cached = static_cast<int64_t>(RoundedQuotient(static_cast<__int128>(input) * cached_ppm, kPpm));
      input_.mix = {input - cached, cached, kMicro};
    }
    if (usage.Has("expected_utilisation_percent")) {
      input_.expected_utilisation_ppm = usage.Decimal("expected_utilisation_percent", kSomePercent);
    }
    usage.Finish();
  }

  void ReadTokens(TomlReader* usage, const std::string& unit, const Range& range) {
    const int64_t input = usage->Decimal("input" + unit, range);
    const int64_t cached = usage->Decimal("cached" + unit, range, 0);
    const int64_t output = usage->Decimal("output" + unit, {range.scale, 1, range.max});
    if (cached > input) {
      usage->Fail("cached" + unit, absl::StrCat("is more than input", unit, ", of which it is a part"));
      return;
    }
    if (input / 10'000 > output) usage->Fail("input" + unit, "is more than 10,000 times the output");
    input_.mix = {input - cached, cached, output};
  }

  void SetOutput(TomlReader* usage, __int128 tokens, const std::string& from) {
    if (tokens > kTokensPerMonth.max) usage->Fail("", "comes to more than 100,000,000,000,000 output tokens a month");
    if (usage->failed()) return;
    input_.output_per_month = static_cast<int64_t>(tokens);
    input_.output_from = from;
  }

  void ReadBill() {
    TomlReader reader = root_.Table("bill");
    if (!reader.present()) return;
    Bill bill;
    const std::string currency = CurrencyOf(&reader), per = reader.Text("per");
    const int64_t listed = reader.Decimal("amount", kMoney);
    const int64_t amount = Convert(&reader, "amount", listed, currency, kMoney.max);
    if (per != "month" && per != "year") reader.Fail("per", "expected \"month\" or \"year\"");
    bill.micro_per_month = per == "year" ? static_cast<int64_t>(RoundedQuotient(amount, 12)) : amount;
    bill.stated = absl::StrCat(document::Figure(listed, 6, 2), " ", currency, " a ", per);
    const bool implies = !input_.output_per_month;
    bill.api =
        reader.Text("api", implies && !input_.expected_utilisation_ppm ? std::nullopt : std::optional<std::string>(""));
    reader.Finish();
    if (reader.failed()) return;
    if (!bill.api.empty()) {
      const auto api = std::find_if(input_.apis.begin(), input_.apis.end(),
                                    [&](const ApiPrice& price) { return price.name == bill.api; });
      if (api == input_.apis.end()) {
        reader.Fail("api", absl::StrCat("\"", bill.api, "\" is no name under [[api]]"));
      } else if (implies) {
        ImplyOutput(&reader, bill, *api);
      }
    }
    input_.bill = std::move(bill);
  }

  // So many tokens as the bill buys at the API's prices.
  void ImplyOutput(TomlReader* reader, const Bill& bill, const ApiPrice& api) {
    const Mix& mix = input_.mix;
    const __int128 price = static_cast<__int128>(mix.uncached) * api.input_micro +
                           static_cast<__int128>(mix.cached) * api.cached_micro +
                           static_cast<__int128>(mix.output) * api.output_micro;
    if (price == 0) {
      reader->Fail("api", "costs nothing, so that no usage follows from the bill");
      return;
    }
    SetOutput(reader, RoundedQuotient(static_cast<__int128>(bill.micro_per_month) * kMicro * mix.output, price),
              absl::StrCat("what ", bill.stated, " buys at ", api.name));
  }

  void ReadTrial() {
    TomlReader reader = root_.Table("trial");
    if (!reader.present()) return;
    Trial trial;
    trial.cost_micro = Money(&reader, "cost", kMoney, CurrencyOf(&reader));
    // Another's measurement of the same box may be 15 % off, a guess by half.
    const int64_t doubt = input_.throughput.measured ? 150'000 : 500'000;
    constexpr Range kShare{4, 10'000, 10 * kPpm};
    trial.low_ppm = reader.Decimal("throughput_low_percent", kShare, kPpm - doubt);
    trial.high_ppm = reader.Decimal("throughput_high_percent", kShare, kPpm + doubt);
    if (trial.low_ppm > kPpm || trial.high_ppm < kPpm) {
      reader.Fail("throughput_low_percent", "expected a range around 100, the figure under [throughput]");
    }
    reader.Finish();
    input_.trial = trial;
  }

  const ParseOptions& options_;
  absl::Status status_;
  TomlReader root_;
  Input input_;
};

}  // namespace

absl::StatusOr<Input> ParseInput(absl::string_view toml, const ParseOptions& options) {
  GANTRY_ASSIGN_OR_RETURN(const toml::table table, ParseToml(toml, options.file_name, options.overrides));
  return InputReader(table, options).Read();
}

absl::StatusOr<std::string> BenchPath(absl::string_view toml, const ParseOptions& options) {
  GANTRY_ASSIGN_OR_RETURN(const toml::table table, ParseToml(toml, options.file_name, options.overrides));
  const auto path = table["throughput"]["bench"].value<std::string>();
  return path.value_or("");
}

}  // namespace gantry::tco
