#include "services/worker/model_options.h"

#include "engine/base/status_macros.h"
#include "services/worker/model_files.h"

namespace gantry::worker {

void ModelOptions::Declare(Config* config) {
  config->Group("Model");
  config->String("model", &model, "directory with config.json, *.safetensors, tokenizer.json; or a .gguf file")
      .Required()
      .Example("models/demo");
  config->String("model-name", &model_name, "name that clients ask for; default: the directory's name");
  config->Choice("backend", &backend, {"cpu", "reference"}, "what computes");
  config->Choice("spec", &spec, {"auto", "off", "mtp:1", "mtp:2", "mtp:3", "mtp:4", "mtp:5"},
                 "speculation; never changes the output");
  config->Int("threads", &threads, 0, 4096, "0: what cgroup quota and affinity mask allow");
  config->Int("max-sequences", &max_sequences, 1, 1024, "sequences running at once");
  config->Int("max-context", &max_context, 0, 1 << 24, "positions of one sequence; 0: the model's");
  config->Int("cache-mib", &cache_mib, 1, 1 << 20, "hard limit of KV pages and states");
  config->Choice("kv-type", &kv_type, {"f16", "f32", "int8"},
                 "keys and values; smaller ones fit more positions into cache-mib, each has its own output");
}

absl::StatusOr<engine::EngineOptions> ModelOptions::ForEngine() const {
  engine::EngineOptions options;
  options.model_path = model;
  options.backend = backend;
  options.threads = static_cast<int>(threads);
  options.max_sequences = static_cast<int>(max_sequences);
  options.max_context = static_cast<int>(max_context);
  options.cache_bytes = cache_mib << 20;
  options.kv_type = kv_type;
  options.spec.mode = spec;
  GANTRY_ASSIGN_OR_RETURN(options.vocab_used, TokenizerSize(model));
  return options;
}

}  // namespace gantry::worker
