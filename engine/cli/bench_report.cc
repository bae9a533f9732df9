#include "engine/cli/bench_report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace gantry::engine::cli {
namespace {

using nlohmann::ordered_json;

// Medians of a row's runs, and what they are of the machine's best.
struct Figures {
  double prompt_tokens_per_s = 0, decode_tokens_per_s = 0, tokens_per_round = 0;
  double int8_share = 0;
  std::optional<double> bandwidth_share;               // speculation off
  std::optional<double> batch_gain, batch_gain_bound;  // over the row of one sequence, when there is one
  std::vector<double> acceptance;                      // by depth - 1, over all runs; as deep as drafts went
};

const char* Decoded(const BenchReport& report) {
  return report.free ? "free" : "forced";
}

double Median(const BenchRow& row, double Measurement::*what) {
  std::vector<double> values;
  for (const Measurement& run : row.runs) values.push_back(run.*what);
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Figures FiguresOf(const BenchReport& report, const BenchRow& row) {
  Figures out;
  out.prompt_tokens_per_s = Median(row, &Measurement::prompt_tokens_per_s);
  out.decode_tokens_per_s = Median(row, &Measurement::decode_tokens_per_s);
  out.tokens_per_round = Median(row, &Measurement::tokens_per_round);
  out.int8_share = report.roofline.Int8Share(out.prompt_tokens_per_s);
  if (row.point.spec == "off") {
    out.bandwidth_share = report.roofline.BandwidthShare(row.point, Median(row, &Measurement::rounds_per_s));
    for (const BenchRow& other : report.rows) {
      if (row.point.batch == 1 || other.point.batch != 1 || other.point.spec != "off" ||
          other.point.context != row.point.context) {
        continue;
      }
      out.batch_gain = out.decode_tokens_per_s / Median(other, &Measurement::decode_tokens_per_s);
      out.batch_gain_bound = report.roofline.BatchGain(row.point);
    }
  }
  for (int depth = 0; depth < kDraftDepthMax; ++depth) {
    int64_t drafted = 0, accepted = 0;
    for (const Measurement& run : row.runs) {
      drafted += run.drafted_at[depth];
      accepted += run.accepted_at[depth];
    }
    if (drafted > 0) out.acceptance.push_back(static_cast<double>(accepted) / static_cast<double>(drafted));
  }
  return out;
}

}  // namespace

void BenchReport::PrintJson() const {
  const Traffic& traffic = roofline.traffic;
  ordered_json out = {{"model", model},
                      {"backend", backend},
                      {"numerics_id", numerics_id},
                      {"text", text},
                      {"threads", threads},
                      {"weight_bytes", weight_bytes},
                      {"decode_tokens", roofline.decode_tokens},
                      {"weight_bytes_per_token", traffic.WeightBytes(1)},
                      {"state_bytes_per_token", traffic.state_bytes},
                      {"macs_per_prompt_token", traffic.prompt_macs},
                      {"read_bandwidth_bytes_per_s", roofline.bandwidth.bytes_per_s},
                      {"read_kernel", roofline.bandwidth.kernel},
                      {"int8_macs_per_s", roofline.int8_macs_per_s},
                      {"rows", ordered_json::array()}};
  for (const BenchRow& row : rows) {
    const Figures figures = FiguresOf(*this, row);
    ordered_json entry = {{"spec", row.point.spec},
                          {"batch", row.point.batch},
                          {"context", row.point.context},
                          {"decoded", Decoded(*this)},
                          {"text_repeats", row.repeats},
                          {"runs", row.runs.size()},
                          {"prompt_tokens_per_s", figures.prompt_tokens_per_s},
                          {"decode_tokens_per_s", figures.decode_tokens_per_s},
                          {"tokens_per_round", figures.tokens_per_round},
                          {"share_of_int8_peak", figures.int8_share},
                          {"bytes_per_round", roofline.RoundBytes(row.point)},
                          {"acceptance", figures.acceptance},
                          {"hash", absl::StrFormat("%016x", row.hash)}};
    if (figures.bandwidth_share) entry["share_of_bandwidth"] = *figures.bandwidth_share;
    if (figures.batch_gain) {
      entry["batch_gain"] = *figures.batch_gain;
      entry["batch_gain_roofline"] = *figures.batch_gain_bound;
    }
    out["rows"].push_back(entry);
  }
  std::printf("%s\n", out.dump(2).c_str());
}

void BenchReport::PrintTable() const {
  const Traffic& traffic = roofline.traffic;
  std::printf("%s, %s (%s), text: %s, decode %d, median of %zu runs\n", model.c_str(), backend.c_str(),
              numerics_id.c_str(), text.c_str(), roofline.decode_tokens, rows.front().runs.size());
  std::printf(free ? "decoded is what the model writes on its own\n"
                   : "decoded is the text, forced upon the model as it follows the prompt\n");
  std::printf(
      "a token reads %.1f MB of weights and %.1f MB of state; the machine reads %.1f GB/s (%s), int8 %.0f GMAC/s\n",
      traffic.WeightBytes(1) / 1e6, static_cast<double>(traffic.state_bytes) / 1e6,
      roofline.bandwidth.bytes_per_s / 1e9, roofline.bandwidth.kernel.c_str(), roofline.int8_macs_per_s / 1e9);
  std::printf("%-16s %5s %7s %12s %7s %7s %12s %9s %12s  %-16s %s\n", "spec", "batch", "context", "prompt tok/s",
              "of int8", "decoded", "decode tok/s", "of bandw.", "tokens/round", "hash", "");
  for (const BenchRow& row : rows) {
    const Figures figures = FiguresOf(*this, row);
    const std::string bandwidth =
        figures.bandwidth_share ? absl::StrFormat("%.1f%%", 100 * *figures.bandwidth_share) : "";
    std::string notes = row.repeats ? "the text repeats itself; " : "";
    if (!figures.acceptance.empty()) {
      const auto print = [](std::string* out, double share) { absl::StrAppendFormat(out, "%.2f", share); };
      absl::StrAppend(&notes, "accepted ", absl::StrJoin(figures.acceptance, "/", print));
    }
    if (figures.batch_gain) {
      absl::StrAppendFormat(&notes, "%.2f x one sequence, roofline %.2f", *figures.batch_gain,
                            *figures.batch_gain_bound);
    }
    std::printf("%-16s %5d %7d %12.1f %6.1f%% %7s %12.1f %9s %12.2f  %016llx %s\n",
                row.point.spec.substr(0, 16).c_str(), row.point.batch, row.point.context, figures.prompt_tokens_per_s,
                100 * figures.int8_share, Decoded(*this), figures.decode_tokens_per_s, bandwidth.c_str(),
                figures.tokens_per_round, static_cast<unsigned long long>(row.hash), notes.c_str());
  }
  if (!traffic.experts.empty()) std::printf("rooflines take the choice of experts as uniform and independent\n");
}

}  // namespace gantry::engine::cli
