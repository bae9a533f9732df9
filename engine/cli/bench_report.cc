#include "engine/cli/bench_report.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace gantry::engine::cli {
namespace {

using nlohmann::ordered_json;

std::string OrDash(const std::optional<double>& value, double factor = 1, const char* unit = "") {
  return value ? absl::StrFormat("%.2f%s", factor * *value, unit) : "-";
}

std::string Label(const BenchPoint& point) {
  return absl::StrFormat("%-16s %5d %7d", point.spec.substr(0, 16), point.batch, point.context);
}

std::vector<double> Samples(const BenchRow& row) {
  std::vector<double> samples;
  for (const Measurement& run : row.runs) samples.push_back(run.decode_tokens_per_s);
  return samples;
}

ordered_json ToJson(const SpeculationFigures& s) {
  return {{"depth", s.depth},           {"accepted", s.accepted},   {"draft_passes", s.passes},
          {"plain_ms", s.plain_ms},     {"verify_ms", s.verify_ms}, {"draft_ms", s.draft_ms},
          {"ideal_speedup", s.ideal()}, {"speedup", s.measured},    {"share_of_ideal", s.measured / s.ideal()}};
}

void AddBatch(const BatchFigures& batch, const RowFigures& figures, ordered_json* entry) {
  ordered_json& out = *entry;
  out["bytes_per_round"] = batch.round_bytes;
  out["share_of_bandwidth"] = figures.decode_tokens_per_s / batch.bytes_tokens_per_s;
  out["tokens_per_s_by_bytes"] = batch.bytes_tokens_per_s;
  if (batch.int8_tokens_per_s) out["tokens_per_s_by_int8"] = *batch.int8_tokens_per_s;
  if (batch.experts > 0) out["experts_read"] = batch.experts_read;
  if (!batch.gain) return;
  out["batch_gain"] = *batch.gain;
  out["batch_gain_by_bytes"] = *batch.gain_by_bytes;
  out["share_of_batch_gain"] = *batch.gain / *batch.gain_by_bytes;
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
                      {"weight_bytes_per_token", traffic.TokenWeightBytes()},
                      {"state_bytes_per_token", traffic.state_bytes},
                      {"macs_per_prompt_token", traffic.prompt_macs},
                      {"macs_per_token", traffic.prompt_macs + traffic.head_macs},
                      {"read_bandwidth_bytes_per_s", roofline.bandwidth.bytes_per_s},
                      {"read_kernel", roofline.bandwidth.kernel},
                      {"int8_macs_per_s", roofline.int8_macs_per_s},
                      {"rows", ordered_json::array()}};
  for (const BenchRow& row : rows) {
    const RowFigures figures = FiguresOf(row, rows, costs, roofline);
    ordered_json entry = {{"spec", row.point.spec},
                          {"batch", row.point.batch},
                          {"context", row.point.context},
                          {"decoded", free ? "free" : "forced"},
                          {"text_repeats", row.repeats},
                          {"runs", row.runs.size()},
                          {"prompt_tokens_per_s", figures.prompt_tokens_per_s},
                          {"decode_tokens_per_s", figures.decode_tokens_per_s},
                          {"decode_samples", Samples(row)},
                          {"tokens_per_round", figures.tokens_per_round},
                          {"share_of_int8_peak", figures.int8_share},
                          {"acceptance", figures.acceptance},
                          {"hash", absl::StrFormat("%016x", row.hash)}};
    if (figures.batch) AddBatch(*figures.batch, figures, &entry);
    if (figures.speculation) entry["speculation"] = ToJson(*figures.speculation);
    out["rows"].push_back(entry);
  }
  std::printf("%s\n", out.dump(2).c_str());
}

void BenchReport::PrintTable() const {
  const Traffic& traffic = roofline.traffic;
  std::printf("%s, %s (%s), text: %s, decode %d, median of %zu runs\n", model.c_str(), backend.c_str(),
              numerics_id.c_str(), text.c_str(), roofline.decode_tokens, rows.front().runs.size());
  std::printf(
      "a token reads %.1f MB of weights and %.1f MB of state; the machine reads %.1f GB/s (%s), int8 %.0f GMAC/s\n",
      static_cast<double>(traffic.TokenWeightBytes()) / 1e6, static_cast<double>(traffic.state_bytes) / 1e6,
      roofline.bandwidth.bytes_per_s / 1e9, roofline.bandwidth.kernel.c_str(), roofline.int8_macs_per_s / 1e9);
  const char* label = "spec             batch context";
  std::vector<std::string> batches, speculations;
  std::printf("\n%s %12s %7s %7s %12s %12s  %-16s %s\n", label, "prompt tok/s", "of int8", "decoded", "decode tok/s",
              "tokens/round", "hash", "accepted at depth 1/2/...");
  for (const BenchRow& row : rows) {
    const RowFigures figures = FiguresOf(row, rows, costs, roofline);
    const std::string accepted = absl::StrJoin(
        figures.acceptance, "/", [](std::string* out, double share) { absl::StrAppendFormat(out, "%.2f", share); });
    std::printf("%s %12.1f %6.1f%% %7s %12.1f %12.2f  %016llx %s%s\n", Label(row.point).c_str(),
                figures.prompt_tokens_per_s, 100 * figures.int8_share, free ? "free" : "forced",
                figures.decode_tokens_per_s, figures.tokens_per_round, static_cast<unsigned long long>(row.hash),
                accepted.c_str(), row.repeats ? " (the text repeats itself)" : "");
    if (const auto& b = figures.batch) {
      const std::optional<double> share = b->gain ? std::optional(*b->gain / *b->gain_by_bytes) : std::nullopt;
      batches.push_back(absl::StrFormat(
          "%s %8.1f of %-3.0f %8.1f %12.1f %9.1f%% %12s %7s %9s %6s", Label(row.point), b->experts_read, b->experts,
          b->round_bytes / 1e6, b->bytes_tokens_per_s, 100 * figures.decode_tokens_per_s / b->bytes_tokens_per_s,
          OrDash(b->int8_tokens_per_s), OrDash(b->gain), OrDash(b->gain_by_bytes), OrDash(share)));
    }
    if (const auto& s = figures.speculation) {
      speculations.push_back(absl::StrFormat(
          "%s %6.2f %8.2f %7.2f %8.3f %9.3f %8.3f %6.2f %9.2f %9.2f", Label(row.point), s->depth, s->accepted,
          s->passes, s->plain_ms, s->verify_ms, s->draft_ms, s->ideal(), s->measured, s->measured / s->ideal()));
    }
  }
  if (!batches.empty()) {
    std::printf(
        "\nWithout speculation: experts that a layer read a round, and the limits of bytes and int8 products\n");
    std::printf("%s %15s %8s %12s %10s %12s %7s %9s %6s\n%s\n", label, "experts read", "MB/round", "tok/s: bytes",
                "reached", "tok/s: int8", "x one", "by bytes", "share", absl::StrJoin(batches, "\n").c_str());
  }
  if (!speculations.empty()) {
    std::printf("\nSpeculation: ideal = (1 + accepted) x t(1) / (t_verify + passes x t_draft), times in ms a round\n");
    std::printf("%s %6s %8s %7s %8s %9s %8s %6s %9s %9s\n%s\n", label, "depth", "accepted", "passes", "t(1)",
                "t_verify", "t_draft", "ideal", "measured", "of ideal", absl::StrJoin(speculations, "\n").c_str());
  }
}

}  // namespace gantry::engine::cli
