// What a decision between own hardware and an API rests on: facts, each with its unit, all money in one currency.
//
// Amounts are micro-units (10^-6) of Input::currency; prices of tokens are micro-units per million tokens; shares are
// parts per million (1'000'000 = 100 %). No floating point: decimals are read digit by digit, what is converted between
// currencies is rounded half away from zero to a micro-unit, once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/civil_time.h"

namespace gantry::tco {

inline constexpr int64_t kPpm = 1'000'000;
// A month is a twelfth of 365 days: 730 hours, 2,628,000 seconds.
inline constexpr int64_t kHoursPerMonth = 730, kSecondsPerMonth = 2'628'000;

struct HardwareItem {
  std::string name;
  int64_t count = 1;
  int64_t price_micro = 0;  // each
};

// Tokens of each class that go together: prompt tokens that are computed, those from the cache, and output. Only the
// proportions count. output > 0.
struct Mix {
  int64_t uncached = 0, cached = 0, output = 1;
};

struct Throughput {
  int64_t output_milli_per_s = 0;  // of all streams together, 10^-3 tokens a second
  // When known, prompts take their own time; otherwise the derate covers them.
  std::optional<int64_t> prefill_milli_per_s;
  int64_t derate_ppm = kPpm;  // what is left of it after peaks, downtime (and prompts)
  bool measured = false;      // on the box in question
  std::string source;         // who measured what
};

struct ApiPrice {
  std::string name;
  int64_t input_micro = 0, cached_micro = 0, output_micro = 0;  // per million tokens
  bool cached_listed = false;                                   // else cached tokens cost what others cost
  bool same_model = false;                                      // the model that the own hardware would run
  std::string source;
  absl::CivilDay date;    // when the price was looked up
  std::string as_listed;  // in its own currency, when it was converted: "USD 0.26 / 0.26 / 2.08"
};

struct ExchangeRate {
  std::string from, to;
  int64_t rate_micro = 0;  // `to` for one `from`
  std::string source;
  absl::CivilDay date;
};

// What is paid for APIs today.
struct Bill {
  int64_t micro_per_month = 0;
  std::string stated;  // "500,000.00 CNY a year"
  std::string api;     // its name among Input::apis; may be empty when the usage is known
};

struct Trial {
  int64_t cost_micro = 0;
  // Where the throughput may turn out to lie, of the figure given.
  int64_t low_ppm = 0, high_ppm = 0;
};

struct Input {
  std::string title, prepared_by, prepared_for;
  std::string currency;  // CNY, EUR or USD

  std::vector<HardwareItem> hardware;  // of one box
  int64_t months = 36;
  int64_t residual_ppm = 0;  // of the purchase price, after those months

  int64_t maintenance_ppm_per_year = 0;  // of the purchase price
  int64_t average_milliwatts = 0;
  int64_t electricity_micro_per_kwh = 0;
  int64_t pue_ppm = kPpm;  // 1'000'000: no cooling beside the box
  int64_t hosting_micro_per_month = 0;
  int64_t admin_millihours_per_month = 0;
  int64_t admin_micro_per_hour = 0;

  Throughput throughput;
  Mix mix;
  std::optional<int64_t> calls_per_day;
  std::optional<int64_t> output_per_month;  // tokens; unknown: only break-even is said
  std::string output_from;                  // how it is known: "100,000 calls a day", "implied by the bill", …
  std::optional<int64_t> expected_utilisation_ppm;

  std::vector<ApiPrice> apis;  // at least one
  std::vector<ExchangeRate> rates;
  std::optional<Bill> bill;
  std::optional<Trial> trial;
  std::vector<int64_t> resale_utilisations_ppm;  // of the price floor
};

// A commented file with the worked default: two cards, a month, six API prices.
absl::string_view ExampleToml();

struct ParseOptions {
  std::string file_name = "tco.toml";  // for messages
  std::vector<std::string> overrides;  // "running.pue=1.3", a value of TOML each
  std::optional<std::string> bench;    // text of `gantry-engine bench --json`; replaces the throughput given
};

// INVALID_ARGUMENT names file and line, what was expected and found: unknown keys, units out of range, a currency
// without a rate, a usage said in two ways.
absl::StatusOr<Input> ParseInput(absl::string_view toml, const ParseOptions& options);

// The path that the file gives under throughput.bench, empty if none: to be read by the caller, who knows directories.
absl::StatusOr<std::string> BenchPath(absl::string_view toml, const ParseOptions& options);

}  // namespace gantry::tco
