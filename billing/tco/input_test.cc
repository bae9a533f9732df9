#include "billing/tco/input.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "billing/tco/bench.h"
#include "billing/tco/toml_reader.h"

namespace gantry::tco {
namespace {

using ::testing::HasSubstr;

constexpr absl::string_view kSmall = R"toml(currency = "CNY"
[hardware]
[[hardware.item]]
name = "server"
count = 3
price = 1234.56
[running]
maintenance_percent_per_year = 7.5
average_power_watts = 350.5
electricity_per_kwh = "0.61"
[throughput]
output_tokens_per_s = 400.25
source = "guess"
derate_percent = 50
[usage]
calls_per_day = 1000
input_tokens_per_call = 1500
cached_tokens_per_call = 500
output_tokens_per_call = 300
[[rate]]
from = "USD"
to = "CNY"
rate = 7.1
source = "bank"
date = "2026-07-01"
[[rate]]
from = "CNY"
to = "EUR"
rate = 0.125
source = "bank"
date = 2026-07-01
[[api]]
name = "dollars"
same_model = true
currency = "USD"
input = 0.003625
cached_input = 0.26
output = 2
source = "list"
date = 2026-07-02
[[api]]
name = "euros"
same_model = false
currency = "EUR"
input = 0.5
output = 3.000000
source = "list"
date = 2026-07-02
)toml";

std::string Message(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(ParseInput, ReadsDecimalsExactly) {
  const absl::StatusOr<Input> input = ParseInput(kSmall, {});
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->hardware[0].count, 3);
  EXPECT_EQ(input->hardware[0].price_micro, 1'234'560'000);
  EXPECT_EQ(input->months, 36);
  EXPECT_EQ(input->maintenance_ppm_per_year, 75'000);
  EXPECT_EQ(input->average_milliwatts, 350'500);
  EXPECT_EQ(input->electricity_micro_per_kwh, 610'000);
  EXPECT_EQ(input->throughput.output_milli_per_s, 400'250);
  EXPECT_EQ(input->throughput.derate_ppm, 500'000);
  EXPECT_FALSE(input->throughput.measured);
}

TEST(ParseInput, ConvertsByTheRateGivenInBothDirections) {
  const absl::StatusOr<Input> input = ParseInput(kSmall, {});
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->apis[0].input_micro, 25'738) << "0.003625 x 7.1 = 0.0257375";
  EXPECT_EQ(input->apis[0].cached_micro, 1'846'000);
  EXPECT_EQ(input->apis[0].output_micro, 14'200'000);
  EXPECT_EQ(input->apis[0].as_listed, "USD 0.003625 / 0.26 / 2.00");
  EXPECT_EQ(input->apis[1].input_micro, 4'000'000) << "0.5 / 0.125";
  EXPECT_EQ(input->apis[1].cached_micro, 4'000'000) << "as input";
  EXPECT_EQ(input->apis[1].output_micro, 24'000'000);
}

TEST(ParseInput, CountsTheTokensOfAMonth) {
  const absl::StatusOr<Input> input = ParseInput(kSmall, {});
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(*input->output_per_month, 9'125'000) << "1000 x 300 x 365 / 12";
  EXPECT_EQ(input->mix.uncached, 1'000);
  EXPECT_EQ(input->mix.cached, 500);
  EXPECT_EQ(input->mix.output, 300);
}

TEST(ParseInput, FlagsWinOverTheFile) {
  const absl::StatusOr<Input> input =
      ParseInput(kSmall, {.overrides = {"hardware.months=24", "usage.calls_per_day=2000", "title='Ein Titel'",
                                        "resale.utilisation_percent=[12.5]"}});
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->months, 24);
  EXPECT_EQ(*input->output_per_month, 18'250'000);
  EXPECT_EQ(input->title, "Ein Titel");
  EXPECT_THAT(input->resale_utilisations_ppm, ::testing::ElementsAre(125'000));
}

TEST(ParseInput, TheExampleIsWhole) {
  EXPECT_TRUE(ParseInput(ExampleToml(), {}).ok()) << ParseInput(ExampleToml(), {}).status();
}

// Every line of it that is commented out can be used.
TEST(ParseInput, TheExamplesOptionalPartsAreValidToo) {
  const std::string with_all = absl::StrReplaceAll(
      ExampleToml(),
      {{"# prepared_by", "prepared_by"},
       {"# prepared_for", "prepared_for"},
       {"# admin_hours", "admin_hours"},
       {"# admin_per", "admin_per"},
       {"# prefill_tokens", "prefill_tokens"},
       {"# calls_per_day", "calls_per_day"},
       {"# [bill]\n# amount", "[bill]\namount"},
       {"# currency = \"CNY\"\n# per", "currency = \"CNY\"\nper"},
       {"# api = ", "api = "},
       {"# [trial]\n# cost", "[trial]\ncost"},
       {"# throughput_low", "throughput_low"},
       {"# throughput_high", "throughput_high"},
       {"# [resale]\n# utilisation", "[resale]\nutilisation"},
       {"# [[rate]]\n# from = \"USD\"\n# to = \"CNY\"\n# rate = 7.10\n# source = \"People's Bank of China\"\n# date",
        "[[rate]]\nfrom = \"USD\"\nto = \"CNY\"\nrate = 7.10\nsource = \"People's Bank of China\"\ndate"},
       {"# cached_input", "cached_input"}});
  const absl::StatusOr<Input> input = ParseInput(with_all, {});
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_TRUE(input->bill.has_value());
  EXPECT_TRUE(input->trial.has_value());
  EXPECT_EQ(input->apis[0].cached_micro, 40'000);
  EXPECT_EQ(input->rates.size(), 1u);
}

TEST(ParseInput, SaysWhereWhatIsWrong) {
  struct Case {
    const char* replace;
    const char* by;
    const char* says;
  };
  const Case cases[] = {
      {"currency = \"CNY\"", "currency = \"GBP\"", "tco.toml:1: currency: expected CNY, EUR or USD, found \"GBP\""},
      {"[hardware]\n", "[hardware]\nmonts = 3\n",
       "tco.toml:3: hardware.monts: is not known; expected one of: item, months, residual_percent"},
      {"price = 1234.56", "price = -5",
       "tco.toml:6: hardware.item 1.price: expected a number from 0 to 100,000,000 with at most 6 decimals, found -5"},
      {"price = 1234.56", "price = 1.1234567", "with at most 6 decimals, found 1.1234567"},
      {"price = 1234.56", "price = 1e300", "expected a number from 0 to 100,000,000"},
      {"price = 1234.56", "price = nan", "expected a number from 0 to 100,000,000"},
      {"price = 1234.56", "price = '12,5'", "found \"12,5\""},
      {"price = 1234.56\n", "", "tco.toml:3: hardware.item 1.price: is missing"},
      {"count = 3", "count = 2.5", "hardware.item 1.count: expected a number from 1 to 10,000 with at most 0 decimals"},
      {"to = \"CNY\"", "to = \"JPY\"", "api 1.input: is in USD, and there is no rate to CNY: add one under [[rate]]"},
      {"derate_percent = 50", "derate_percent = 0", "throughput.derate_percent: expected a number from 0.1 to 100"},
      {"source = \"guess\"\n", "", "throughput.source: is missing"},
      {"cached_tokens_per_call = 500", "cached_tokens_per_call = 5000",
       "usage.cached_tokens_per_call: is more than input_tokens_per_call"},
      {"output_tokens_per_call = 300", "output_tokens_per_call = 300\noutput_tokens_per_month = 5",
       "usage.output_tokens_per_month: is said together with output_tokens_per_call"},
      {"calls_per_day = 1000\n", "", "usage.calls_per_day: is missing beside output_tokens_per_call"},
      {"same_model = true\n", "", "api 1.same_model: is missing"},
      {"name = \"euros\"", "name = \"dollars\"", "api 2.name: \"dollars\" is there twice"},
      {"date = \"2026-07-01\"", "date = \"soon\"", "rate 1.date: expected a day such as 2026-07-02, found \"soon\""},
      {"[usage]", "[bill]\namount = 1\nper = \"week\"\n[usage]", "bill.per: expected \"month\" or \"year\""},
      {"[usage]", "[bill]\namount = 1\nper = \"year\"\napi = \"x\"\n[usage]",
       "bill.api: \"x\" is no name under [[api]]"},
      {"[usage]", "[trial]\ncost = 1\nthroughput_low_percent = 120\n[usage]", "expected a range around 100"},
      {"[usage]", "[usage", "tco.toml:"},
      {"[throughput]\n", "[throughput]\nbench = \"b.json\"\n", "throughput.bench: \"b.json\" was not read"},
      {"[hardware]\n", "[hardware]\nitems = 3\n", "hardware.items: is not known"},
      {"average_power_watts = 350.5", "average_power_watts = [1]", "found a list"},
  };
  for (const Case& c : cases) {
    const std::string toml = absl::StrReplaceAll(kSmall, {{c.replace, c.by}});
    ASSERT_NE(toml, kSmall) << c.replace;
    EXPECT_THAT(Message(ParseInput(toml, {}).status()), HasSubstr(c.says)) << c.by;
  }
  EXPECT_THAT(Message(ParseInput(kSmall, {.overrides = {"hardware.months=0"}}).status()),
              HasSubstr("--set hardware.months=0:1: hardware.months: expected a number from 1 to 120"));
  EXPECT_THAT(Message(ParseInput(kSmall, {.overrides = {"hardware.months"}}).status()),
              HasSubstr("--set hardware.months:1: "));
  EXPECT_THAT(Message(ParseInput(kSmall, {.overrides = {"title='" + std::string(201, 't') + "'"}}).status()),
              HasSubstr("title: expected a text in quotes of at most 200 bytes"));
  EXPECT_THAT(Message(ParseInput(std::string(300'000, '#'), {}).status()), HasSubstr("longer than 262144 bytes"));
}

TEST(ParseInput, ABillImpliesTheUsage) {
  const std::string toml = absl::StrReplaceAll(
      kSmall,
      {{"input_tokens_per_call = 1500\ncached_tokens_per_call = 500\noutput_tokens_per_call = 300\n",
        "input_per_output = 4\ncached_percent = 25\n[bill]\namount = 12000\nper = \"year\"\napi = \"euros\"\n"}});
  const absl::StatusOr<Input> input = ParseInput(toml, {});
  ASSERT_TRUE(input.ok()) << input.status();
  // 1000 a month / (4 x 4 + 24) a million.
  EXPECT_EQ(*input->output_per_month, 25'000'000);
  EXPECT_EQ(input->output_from, "what 12,000.00 CNY a year buys at euros");
  EXPECT_EQ(input->mix.uncached, 3'000'000);
  EXPECT_EQ(input->mix.cached, 1'000'000);
}

TEST(ParseDecimal, IsExactOrRefused) {
  struct Case {
    const char* text;
    int scale;
    int64_t value;  // -1: refused
  };
  for (const Case& c :
       {Case{"0", 6, 0}, Case{"0.000001", 6, 1}, Case{"12", 0, 12}, Case{"12.50", 2, 1'250}, Case{"12.500", 2, 1'250},
        Case{"0.1234567", 6, -1}, Case{"", 6, -1}, Case{".5", 6, -1}, Case{"5.", 6, -1}, Case{"-1", 6, -1},
        Case{"+1", 6, -1}, Case{"1e3", 6, -1}, Case{"1,000", 6, -1}, Case{" 1", 6, -1},
        Case{"1000000", 6, 1'000'000'000'000}, Case{"1000000.000001", 6, -1}, Case{"99999999999999999999999", 6, -1}}) {
    const absl::StatusOr<int64_t> value = ParseDecimal(c.text, c.scale, 1'000'000'000'000);
    EXPECT_EQ(value.value_or(-1), c.value) << c.text;
  }
}

// ---- benchmarks ----

// Shape and keys as `gantry-engine bench --json` prints them.
constexpr absl::string_view kBench = R"json({
  "model": "models/demo", "backend": "cpu", "numerics_id": "x", "threads": 2,
  "rows": [
    {"spec": "off", "batch": 1, "context": 512, "prompt_tokens_per_s": 4000.5, "decode_tokens_per_s": 133.7104},
    {"spec": "auto", "batch": 32, "context": 512, "prompt_tokens_per_s": 9900.0, "decode_tokens_per_s": 1411.0},
    {"spec": "off", "batch": 32, "context": 512, "prompt_tokens_per_s": 9950.0, "decode_tokens_per_s": 1211.0}
  ]})json";

TEST(ThroughputOfBench, TakesTheFastestRow) {
  const absl::StatusOr<Throughput> any = ThroughputOfBench(kBench, 0, false);
  ASSERT_TRUE(any.ok()) << any.status();
  EXPECT_EQ(any->output_milli_per_s, 1'411'000);
  EXPECT_FALSE(any->prefill_milli_per_s.has_value());
  EXPECT_TRUE(any->measured);
  EXPECT_EQ(any->source, "gantry-engine bench: models/demo, cpu, 32 sequences, speculation auto");
  const absl::StatusOr<Throughput> one = ThroughputOfBench(kBench, 1, true);
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->output_milli_per_s, 133'710);
  EXPECT_EQ(*one->prefill_milli_per_s, 4'000'500);
}

TEST(ThroughputOfBench, RefusesWhatIsNoBenchmark) {
  EXPECT_THAT(Message(ThroughputOfBench("nonsense", 0, false).status()),
              HasSubstr("expected the output of `gantry-engine bench --json`"));
  EXPECT_THAT(Message(ThroughputOfBench("[]", 0, false).status()), HasSubstr("an object with `rows`"));
  EXPECT_THAT(Message(ThroughputOfBench(kBench, 7, false).status()), HasSubstr("no row of the benchmark has batch 7"));
  EXPECT_THAT(Message(ThroughputOfBench(R"({"rows":[{"batch":1,"decode_tokens_per_s":-3}]})", 0, false).status()),
              HasSubstr("no row of the benchmark has a speed"));
}

TEST(ParseInput, ABenchmarkReplacesTheThroughputTyped) {
  const absl::StatusOr<Input> input =
      ParseInput(kSmall, {.overrides = {"throughput.batch=1"}, .bench = std::string(kBench)});
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(input->throughput.output_milli_per_s, 133'710);
  EXPECT_TRUE(input->throughput.measured);
  EXPECT_EQ(input->throughput.derate_ppm, 500'000);
  EXPECT_EQ(*BenchPath("[throughput]\nbench = \"a/b.json\"", {}), "a/b.json");
  EXPECT_EQ(*BenchPath(kSmall, {}), "");
}

}  // namespace
}  // namespace gantry::tco
