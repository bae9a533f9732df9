// What an administrator may say about the model and the engine that runs it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "services/common/config.h"

namespace gantry::worker {

struct ModelOptions {
  std::string model, model_name, backend = "cpu", spec = "auto", kv_type = "f16";
  int64_t threads = 0, max_sequences = 16, max_context = 0, cache_mib = 512;

  // Declares every member in `config`; this must outlive its Parse.
  void Declare(Config* config);
  // Fails when the model's tokenizer cannot be read.
  absl::StatusOr<engine::EngineOptions> ForEngine() const;
};

}  // namespace gantry::worker
