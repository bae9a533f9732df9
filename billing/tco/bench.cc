#include "billing/tco/bench.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace gantry::tco {
namespace {

constexpr double kTokensPerSecondMax = 1e6;

// A measurement, not money: what the engine prints is a double.
int64_t Milli(double tokens_per_s) {
  return std::llround(tokens_per_s * 1000);
}

bool Plausible(const nlohmann::json& row, const char* key) {
  return row.contains(key) && row[key].is_number() && row[key].get<double>() > 0 &&
         row[key].get<double>() <= kTokensPerSecondMax;
}

}  // namespace

absl::StatusOr<Throughput> ThroughputOfBench(absl::string_view json, int64_t batch, bool with_prefill) {
  const nlohmann::json root = nlohmann::json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!root.is_object() || !root.contains("rows") || !root["rows"].is_array()) {
    return absl::InvalidArgumentError(
        "expected the output of `gantry-engine bench --json`, an object with `rows`; found something else");
  }
  const nlohmann::json* best = nullptr;
  for (const nlohmann::json& row : root["rows"]) {
    if (!row.is_object() || !row.contains("batch") || !row["batch"].is_number_integer()) continue;
    if (batch != 0 && row["batch"].get<int64_t>() != batch) continue;
    if (!Plausible(row, "decode_tokens_per_s") || (with_prefill && !Plausible(row, "prompt_tokens_per_s"))) continue;
    if (best == nullptr || row["decode_tokens_per_s"].get<double>() > (*best)["decode_tokens_per_s"].get<double>()) {
      best = &row;
    }
  }
  if (best == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no row of the benchmark has ", batch == 0 ? std::string("a speed") : absl::StrCat("batch ", batch),
        "; run `gantry-engine bench --json --batch ", batch == 0 ? 1 : batch, "`"));
  }
  const auto text = [](const nlohmann::json& object, const char* key) {
    return object.contains(key) && object[key].is_string() ? object[key].get<std::string>() : std::string("unknown");
  };
  Throughput throughput;
  throughput.output_milli_per_s = Milli((*best)["decode_tokens_per_s"].get<double>());
  if (with_prefill) throughput.prefill_milli_per_s = Milli((*best)["prompt_tokens_per_s"].get<double>());
  throughput.measured = true;
  throughput.source = absl::StrCat("gantry-engine bench: ", text(root, "model"), ", ", text(root, "backend"), ", ",
                                   (*best)["batch"].get<int64_t>(), " sequences, speculation ", text(*best, "spec"));
  return throughput;
}

}  // namespace gantry::tco
