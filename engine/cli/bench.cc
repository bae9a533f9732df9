#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/backend/cpu/machine.h"
#include "engine/base/status_macros.h"
#include "engine/cli/collector.h"
#include "engine/cli/commands.h"
#include "engine/model/model.h"
#include "engine/model/traffic.h"

namespace gantry::engine::cli {
namespace {

using nlohmann::ordered_json;

struct Row {
  int batch = 0;
  std::string spec;
  double prompt_tokens_per_s = 0, decode_tokens_per_s = 0, acceptance = 0, tokens_per_round = 0;
  uint64_t output_hash = 0;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// One run: all prompts at once, then all decode together.
absl::StatusOr<Row> RunOnce(Engine& engine, const BenchOptions& options, int batch) {
  const int vocab = engine.card().spec.vocab_rows;
  std::vector<std::shared_ptr<Collector>> collectors;
  uint64_t random = 88172645463325252ull;
  const int64_t rounds_before = engine.Stats().rounds;
  const absl::Time begin = absl::Now();
  for (int i = 0; i < batch; ++i) {
    Request request;
    for (int t = 0; t < options.prompt_tokens; ++t) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      request.ids.push_back(static_cast<TokenId>(random % static_cast<uint64_t>(vocab)));
    }
    request.generated_from = options.prompt_tokens;
    request.max_tokens = options.decode_tokens;
    request.sampling.temperature = 0;
    collectors.push_back(std::make_shared<Collector>());
    GANTRY_RETURN_IF_ERROR(engine.Submit(std::move(request), collectors.back()).status());
  }
  Row row;
  row.batch = batch;
  row.output_hash = 1469598103934665603ull;
  double prefill_ms = 0;
  int64_t drafted = 0, accepted = 0;
  for (const auto& collector : collectors) {
    const FinishEvent& finish = collector->Wait();
    if (!finish.status.ok()) return finish.status;
    prefill_ms = std::max(prefill_ms, finish.queue_ms + finish.prefill_ms);
    drafted += finish.counts.drafted;
    accepted += finish.counts.accepted;
    for (const TokenId id : collector->ids())
      row.output_hash = (row.output_hash ^ static_cast<uint64_t>(id)) * 1099511628211ull;
  }
  const double total_ms = absl::ToDoubleMilliseconds(absl::Now() - begin);
  row.prompt_tokens_per_s = 1e3 * batch * options.prompt_tokens / prefill_ms;
  row.decode_tokens_per_s = 1e3 * batch * (options.decode_tokens - 1) / std::max(1e-3, total_ms - prefill_ms);
  row.acceptance = drafted == 0 ? 0 : static_cast<double>(accepted) / static_cast<double>(drafted);
  row.tokens_per_round = static_cast<double>(batch) * options.decode_tokens /
                         static_cast<double>(std::max<int64_t>(1, engine.Stats().rounds - rounds_before));
  return row;
}

// What the machine and the model allow, for the cpu backend.
struct Roofline {
  cpu::ReadBandwidth bandwidth;
  double int8_macs_per_s = 0;
  Traffic traffic;

  // Of the bytes that a token of a batch of one must read, without speculation.
  double BandwidthShare(const Row& row) const {
    return row.decode_tokens_per_s * static_cast<double>(traffic.weight_bytes + traffic.state_bytes) /
           bandwidth.bytes_per_s;
  }
  double Int8Share(const Row& row) const {
    return row.prompt_tokens_per_s * static_cast<double>(traffic.prompt_macs) / int8_macs_per_s;
  }
  static bool SaysSomething(const Row& row) { return row.batch == 1 && row.spec == "off"; }
};

absl::StatusOr<Roofline> MeasureRoofline(const CommonOptions& common) {
  Roofline roofline;
  GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, LoadModel(common.model));
  roofline.traffic = TrafficPerToken(*model);
  ThreadPool pool(common.threads);
  roofline.bandwidth = cpu::MeasureReadBandwidth(pool);
  roofline.int8_macs_per_s = cpu::MeasureInt8Peak(pool);
  return roofline;
}

}  // namespace

absl::Status RunBench(const CommonOptions& common, const BenchOptions& options) {
  if (options.prompt_tokens < 1 || options.decode_tokens < 2 || options.runs < 1) {
    return absl::InvalidArgumentError("expected --prompt-tokens >= 1, --decode-tokens >= 2 and --runs >= 1");
  }
  std::vector<Row> rows;
  std::string numerics;
  int64_t weight_bytes = 0;
  GANTRY_ASSIGN_OR_RETURN(const Roofline roofline, MeasureRoofline(common));
  for (const std::string& spec : options.specs) {
    for (const int batch : options.batches) {
      EngineOptions engine_options;
      engine_options.model_path = common.model;
      engine_options.backend = common.backend;
      engine_options.threads = common.threads;
      engine_options.max_sequences = std::max(1, batch);
      engine_options.max_context = options.prompt_tokens + options.decode_tokens + 1;
      engine_options.spec.mode = spec;
      GANTRY_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Create(engine_options));
      numerics = engine->card().numerics_id;
      weight_bytes = engine->card().weight_bytes;
      std::vector<double> prompt, decode;
      Row row;
      for (int run = 0; run < options.runs + 1; ++run) {
        std::fprintf(stderr, "\r%s batch %d: run %d of %d ", spec.c_str(), batch, run, options.runs);
        GANTRY_ASSIGN_OR_RETURN(row, RunOnce(*engine, options, batch));
        if (run == 0) continue;  // warm-up
        prompt.push_back(row.prompt_tokens_per_s);
        decode.push_back(row.decode_tokens_per_s);
      }
      row.spec = spec;
      row.prompt_tokens_per_s = Median(prompt);
      row.decode_tokens_per_s = Median(decode);
      rows.push_back(row);
    }
  }
  std::fprintf(stderr, "\r%60s\r", "");
  if (options.json) {
    ordered_json out = {{"model", common.model},
                        {"backend", common.backend},
                        {"numerics_id", numerics},
                        {"weight_bytes", weight_bytes},
                        {"prompt_tokens", options.prompt_tokens},
                        {"decode_tokens", options.decode_tokens},
                        {"runs", options.runs},
                        {"bytes_per_token", roofline.traffic.weight_bytes},
                        {"state_bytes_per_token", roofline.traffic.state_bytes},
                        {"macs_per_prompt_token", roofline.traffic.prompt_macs},
                        {"read_bandwidth_bytes_per_s", roofline.bandwidth.bytes_per_s},
                        {"read_kernel", roofline.bandwidth.kernel},
                        {"int8_macs_per_s", roofline.int8_macs_per_s},
                        {"rows", ordered_json::array()}};
    for (const Row& row : rows) {
      out["rows"].push_back({{"spec", row.spec},
                             {"batch", row.batch},
                             {"prompt_tokens_per_s", row.prompt_tokens_per_s},
                             {"decode_tokens_per_s", row.decode_tokens_per_s},
                             {"acceptance", row.acceptance},
                             {"tokens_per_round", row.tokens_per_round},
                             {"output_hash", absl::StrFormat("%016x", row.output_hash)}});
      if (!Roofline::SaysSomething(row)) continue;
      out["rows"].back()["share_of_bandwidth"] = roofline.BandwidthShare(row);
      out["rows"].back()["share_of_int8_peak"] = roofline.Int8Share(row);
    }
    std::printf("%s\n", out.dump(2).c_str());
    return absl::OkStatus();
  }
  std::printf("%s, %s backend, prompt %d, decode %d, median of %d runs\n", common.model.c_str(), common.backend.c_str(),
              options.prompt_tokens, options.decode_tokens, options.runs);
  std::printf(
      "a token reads %.1f MB of weights and %.1f MB of state; this machine reads %.1f GB/s (%s), int8 %.0f GMAC/s\n",
      static_cast<double>(roofline.traffic.weight_bytes) / 1e6, static_cast<double>(roofline.traffic.state_bytes) / 1e6,
      roofline.bandwidth.bytes_per_s / 1e9, roofline.bandwidth.kernel.c_str(), roofline.int8_macs_per_s / 1e9);
  std::printf("%-8s %6s %14s %14s %11s %13s  %s\n", "spec", "batch", "prompt tok/s", "decode tok/s", "acceptance",
              "tokens/round", "output hash");
  for (const Row& row : rows) {
    std::printf("%-8s %6d %14.1f %14.1f %10.1f%% %13.2f  %016llx\n", row.spec.c_str(), row.batch,
                row.prompt_tokens_per_s, row.decode_tokens_per_s, 100 * row.acceptance, row.tokens_per_round,
                static_cast<unsigned long long>(row.output_hash));
    if (Roofline::SaysSomething(row)) {
      std::printf("%-8s %6s %13.1f%% %13.1f%%  of int8 peak and of read bandwidth\n", "", "",
                  100 * roofline.Int8Share(row), 100 * roofline.BandwidthShare(row));
    }
  }
  return absl::OkStatus();
}

absl::Status RunInspect(const CommonOptions& common, const InspectOptions& options) {
  GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, LoadModel(common.model));
  const ModelSpec& spec = model->spec;
  ordered_json layers = ordered_json::array();
  for (int i = 0; i < spec.total_layers(); ++i) {
    const LayerSpec& layer = spec.layer(i);
    ordered_json entry = {{"layer", i == spec.trunk_layers() ? ordered_json("mtp") : ordered_json(i)}};
    if (const auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
      entry["mixer"] = absl::StrCat("attention ", attention->query_heads, " q / ", attention->kv_heads, " kv heads x ",
                                    attention->head_dim, attention->output_gate ? ", output gate" : "", ", rotary ",
                                    attention->rope.rotary_dim);
    } else {
      const auto& net = std::get<GatedDeltaNetSpec>(layer.mixer);
      entry["mixer"] = absl::StrCat("gated delta net ", net.key_heads, " k / ", net.value_heads, " v heads x ",
                                    net.key_dim, "x", net.value_dim, ", conv ", net.conv_kernel);
    }
    if (const auto* dense = std::get_if<DenseSpec>(&layer.ffn)) {
      entry["ffn"] = absl::StrCat("dense ", dense->width);
    } else {
      const auto& moe = std::get<MixtureOfExpertsSpec>(layer.ffn);
      entry["ffn"] = absl::StrCat(moe.experts, " experts top-", moe.experts_per_token, " x ", moe.width,
                                  moe.shared_width > 0 ? absl::StrCat(" + shared ", moe.shared_width) : "");
    }
    layers.push_back(entry);
  }
  const ordered_json out = {{"model", model->path},
                            {"family", spec.family},
                            {"hidden", spec.hidden},
                            {"vocab_rows", spec.vocab_rows},
                            {"tied_head", spec.tied_head},
                            {"max_context", spec.max_context},
                            {"stop_ids", spec.stop_ids},
                            {"parameters", model->parameters},
                            {"weight_bytes", model->weight_bytes},
                            {"mtp", spec.mtp.has_value()},
                            {"layers", layers}};
  if (options.json) {
    std::printf("%s\n", out.dump(2).c_str());
    return absl::OkStatus();
  }
  std::printf("%s: %s, %.1f M parameters, %.1f MB\nhidden %d, vocabulary %d%s, context %d, MTP %s\n",
              model->path.c_str(), spec.family.c_str(), static_cast<double>(model->parameters) / 1e6,
              static_cast<double>(model->weight_bytes) / 1e6, spec.hidden, spec.vocab_rows,
              spec.tied_head ? " (tied head)" : "", spec.max_context, spec.mtp ? "yes" : "no");
  for (const ordered_json& layer : layers) {
    std::printf("  %-4s %-60s %s\n", layer["layer"].is_string() ? "mtp" : layer["layer"].dump().c_str(),
                layer["mixer"].get<std::string>().c_str(), layer["ffn"].get<std::string>().c_str());
  }
  return absl::OkStatus();
}

}  // namespace gantry::engine::cli
