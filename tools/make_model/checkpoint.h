// A model before it is written: config.json and tensors under Hugging Face's names, whose rows are made on demand, so
// that a model of any size takes the memory of a few rows.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace gantry::make_model {

struct SourceTensor {
  std::vector<int64_t> shape;  // slowest dimension first
  // Writes columns() values of row `row`, counted over all dimensions but the last. Any thread; keeps alive what it
  // reads from.
  std::function<void(int64_t row, float* out)> read;

  int64_t columns() const { return shape.back(); }
  int64_t rows() const {
    int64_t n = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) n *= shape[i];
    return n;
  }
};

struct Checkpoint {
  nlohmann::ordered_json config;  // flat, or with the text part under text_config
  std::map<std::string, SourceTensor> tensors;

  const nlohmann::ordered_json& text_config() const {
    return config.contains("text_config") ? config["text_config"] : config;
  }
};

// Random weights of the family and sizes that `config` names, the same for the same seed. Every linear layer keeps the
// variance of its input, residual branches are scaled down by the depth, and delta nets forget at the pace of trained
// ones, so that activations stay near 1 at any depth. INVALID_ARGUMENT names the family or the key.
absl::StatusOr<Checkpoint> RandomCheckpoint(const nlohmann::ordered_json& config, uint64_t seed);

// The checkpoint in a directory (config.json, *.safetensors).
absl::StatusOr<Checkpoint> OpenCheckpoint(const std::string& directory);

}  // namespace gantry::make_model
