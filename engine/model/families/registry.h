// The families this build knows. Adding one: a file beside this one and a row in registry.cc.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/format/config_json.h"
#include "engine/model/model.h"
#include "engine/model/tensor_source.h"

namespace gantry::engine {

struct Family {
  const char* name;                      // as in ModelSpec::family
  std::vector<std::string> model_types;  // config.json `model_type` values it answers to
  absl::Status (*load)(const ConfigObject& config, TensorSource& tensors, Model* model);
};

// INVALID_ARGUMENT listing what is supported.
absl::StatusOr<const Family*> FindFamily(const std::string& model_type);

// families/qwen3_5_moe.cc
absl::Status LoadQwen35Moe(const ConfigObject& config, TensorSource& tensors, Model* model);

}  // namespace gantry::engine
