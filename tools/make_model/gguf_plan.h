// A checkpoint as it will stand in a GGUF file: keys, and tensors with the conversions that llama.cpp's loader expects
// (docs/models.md, "GGUF").
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/numeric.h"
#include "tools/make_model/checkpoint.h"

namespace gantry::make_model {

using GgufValue = std::variant<std::string, uint32_t, float, bool, std::vector<std::string>, std::vector<int32_t>>;

struct GgufTensor {
  std::string name;
  SourceTensor source;
  engine::DType type = engine::DType::kF32;
};

struct GgufPlan {
  std::vector<std::pair<std::string, GgufValue>> keys;
  std::vector<GgufTensor> tensors;
};

// `type`: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q4_k, q5_k, q6_k for all matrices; or q4_k_m, llama.cpp's mix of Q4_K
// with Q6_K for the head and for half of the layers' value and down projections, Q5_K for fused q/k/v. Norms, routers
// and other small things are F32 always. A matrix whose rows are no whole blocks gets a type with smaller blocks.
// INVALID_ARGUMENT names the type, the family or the tensor that is missing.
absl::StatusOr<GgufPlan> PlanGguf(const Checkpoint& checkpoint, const std::string& type);

// Adds the tokenizer and chat template of a model directory; ids up to vocab_rows that it does not know become unused.
absl::Status AddTokenizer(const std::string& directory, int64_t vocab_rows, GgufPlan* plan);

}  // namespace gantry::make_model
