// make_model: models with random weights, and GGUF files of checkpoints. Names and flags are a contract: benchmarks are
// scripted against them.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "tools/make_model/checkpoint.h"
#include "tools/make_model/gguf_plan.h"
#include "tools/make_model/shapes.h"
#include "tools/make_model/write_model.h"

namespace gantry::make_model {
namespace {

struct Options {
  std::string shape, config, from;  // exactly one is set
  std::string out, type = "bf16", tokenizer = "models/demo";
  uint64_t seed = 1;
  bool mtp = false;
  int threads = 0;
};

absl::StatusOr<nlohmann::ordered_json> ReadConfig(const Options& options) {
  nlohmann::ordered_json config;
  if (!options.shape.empty()) {
    GANTRY_ASSIGN_OR_RETURN(config, ShapeConfig(options.shape));
  } else {
    GANTRY_ASSIGN_OR_RETURN(const std::string text, engine::ReadSmallFile(options.config, 1 << 20));
    config = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!config.is_object())
      return absl::InvalidArgumentError(absl::StrCat(options.config, ": expected a JSON object"));
  }
  nlohmann::ordered_json& text = config.contains("text_config") ? config["text_config"] : config;
  if (options.mtp) text["mtp_num_hidden_layers"] = 1;
  return config;
}

absl::Status Run(const Options& options) {
  Checkpoint checkpoint;
  std::string tokenizer = options.tokenizer;
  if (options.from.empty()) {
    GANTRY_ASSIGN_OR_RETURN(const nlohmann::ordered_json config, ReadConfig(options));
    GANTRY_ASSIGN_OR_RETURN(checkpoint, RandomCheckpoint(config, options.seed));
  } else {
    GANTRY_ASSIGN_OR_RETURN(checkpoint, OpenCheckpoint(options.from));
    tokenizer = options.from;
  }
  if (!absl::EndsWith(options.out, ".gguf")) {
    return WriteSafetensors(checkpoint, options.type, options.out, tokenizer, options.threads);
  }
  GANTRY_ASSIGN_OR_RETURN(GgufPlan plan, PlanGguf(checkpoint, options.type));
  for (const GgufTensor& tensor : plan.tensors) {
    if (tensor.name != "token_embd.weight") continue;
    GANTRY_RETURN_IF_ERROR(AddTokenizer(tokenizer, tensor.source.rows(), &plan));
    break;
  }
  return WriteGguf(plan, options.out, options.threads);
}

}  // namespace
}  // namespace gantry::make_model

int main(int argc, char** argv) {
  gantry::make_model::Options options;
  CLI::App app{
      "make_model writes models with random weights, for tests and benchmarks, and GGUF files of checkpoints.\n\n"
      "  make_model --shape bench-1b --type q8_0 --out bench-1b.gguf\n"
      "  make_model --shape real-heads --type f32 --mtp --out real-heads\n"
      "  make_model --config config.json --type q4_k_m --seed 7 --out model.gguf\n"
      "  make_model --from models/demo --type q8_0 --out demo.gguf",
      "make_model"};
  auto* source = app.add_option_group("source", "What to write (exactly one)");
  source->add_option("--shape", options.shape, "Random weights: real-heads or bench-1b");
  source->add_option("--config", options.config, "Random weights: a config.json of a supported family");
  source->add_option("--from", options.from, "A model directory, tokenizer included");
  source->require_option(1);
  app.add_option("--out", options.out, "A .gguf file, or a directory for safetensors")->required();
  app.add_option("--type", options.type,
                 "f32, f16, bf16; for GGUF also q8_0, q4_0, q4_1, q5_0, q4_k, q5_k, q6_k and q4_k_m, llama.cpp's mix")
      ->capture_default_str();
  app.add_option("--tokenizer", options.tokenizer, "Model directory whose tokenizer and chat template are copied")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Same seed, same bytes")->capture_default_str();
  app.add_flag("--mtp", options.mtp, "With an MTP layer (Qwen3.5)");
  app.add_option("--threads", options.threads, "0: what cgroup quota and affinity mask allow")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = gantry::make_model::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "make_model: %s\n", std::string(status.message()).c_str());
  return 1;
}
