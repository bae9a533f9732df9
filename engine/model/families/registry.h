// The families this build knows. Adding one: a file beside this one and a row in registry.cc.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/format/config_json.h"
#include "engine/format/gguf.h"
#include "engine/model/model.h"
#include "engine/model/tensor_source.h"

namespace gantry::engine {

// A family reads spec and weights from either kind of checkpoint into `model`, and leaves stop ids to the loader.
struct Family {
  const char* name;                      // as in ModelSpec::family
  std::vector<std::string> model_types;  // config.json `model_type` values it answers to
  absl::Status (*load)(const ConfigObject& config, TensorSource& tensors, Model* model);
  const char* architecture;  // GGUF `general.architecture`; null: read by another row's load_gguf
  absl::Status (*load_gguf)(const GgufKeys& keys, TensorSource& tensors, Model* model);
};

// INVALID_ARGUMENT listing what is supported.
absl::StatusOr<const Family*> FindFamily(const std::string& model_type);
absl::StatusOr<const Family*> FindGgufFamily(const std::string& architecture);

// families/llama.cc. GGUF files of architecture `llama` with experts are Mixtral's.
absl::Status LoadLlama(const ConfigObject& config, TensorSource& tensors, Model* model);
absl::Status LoadGgufLlama(const GgufKeys& keys, TensorSource& tensors, Model* model);
// families/mixtral.cc
absl::Status LoadMixtral(const ConfigObject& config, TensorSource& tensors, Model* model);
absl::Status LoadGgufMixtral(const GgufKeys& keys, TensorSource& tensors, Model* model);
// families/qwen3.cc
absl::Status LoadQwen3(const ConfigObject& config, TensorSource& tensors, Model* model);
absl::Status LoadGgufQwen3(const GgufKeys& keys, TensorSource& tensors, Model* model);
// families/qwen3_moe.cc
absl::Status LoadQwen3Moe(const ConfigObject& config, TensorSource& tensors, Model* model);
absl::Status LoadGgufQwen3Moe(const GgufKeys& keys, TensorSource& tensors, Model* model);
// families/qwen3_5_moe.cc
absl::Status LoadQwen35Moe(const ConfigObject& config, TensorSource& tensors, Model* model);
absl::Status LoadGgufQwen35Moe(const GgufKeys& keys, TensorSource& tensors, Model* model);

}  // namespace gantry::engine
