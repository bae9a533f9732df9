// A loaded model: its spec and its weights as views into the mapped files.
//
// Large matrices stay as stored (a backend repacks them for its kernels); vectors that enter formulas element by
// element (norm weights, decay rates, convolution taps) are read out as float32, with every file format's conventions
// already folded in: a backend sees y = x * rsqrt(mean x^2 + eps) * w and decay = exp(a * softplus(...)), whatever the
// file stores. Immutable after loading, shared between threads.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/matrix.h"
#include "engine/model/model_spec.h"

namespace gantry::engine {

struct AttentionWeights {
  Matrix q;                   // [query_heads * head_dim * (output_gate ? 2 : 1), H]
  Matrix k, v;                // [kv_heads * head_dim, H]
  Matrix o;                   // [H, query_heads * head_dim]
  std::vector<float> q_norm;  // [head_dim], empty without qk_norm
  std::vector<float> k_norm;
};

// Value heads stand in the order of GatedDeltaNetSpec::tiled_value_heads in every part.
struct GatedDeltaNetWeights {
  Matrix qkv;                  // [conv_channels, H]: q heads, k heads, v heads
  Matrix z;                    // [value_heads * value_dim, H]
  Matrix b, a;                 // [value_heads, H]
  Matrix out;                  // [H, value_heads * value_dim]
  std::vector<float> conv;     // [conv_channels, conv_kernel]; the last tap multiplies the current token
  std::vector<float> decay;    // [value_heads], = -exp(A_log): log-decay is decay * softplus(a + dt_bias), <= 0
  std::vector<float> dt_bias;  // [value_heads]
  std::vector<float> norm;     // [value_dim]
};

struct SwiGluWeights {
  Matrix gate, up;  // [width, H]
  Matrix down;      // [H, width]
};

struct MixtureOfExpertsWeights {
  Matrix router;  // [experts, H]
  std::vector<SwiGluWeights> experts;
  std::optional<SwiGluWeights> shared;
  std::optional<Matrix> shared_gate;  // [1, H]
};

struct LayerWeights {
  std::vector<float> mixer_norm;  // [H]
  std::variant<AttentionWeights, GatedDeltaNetWeights> mixer;
  std::vector<float> ffn_norm;  // [H]
  std::variant<SwiGluWeights, MixtureOfExpertsWeights> ffn;
};

struct MtpWeights {
  std::vector<float> embedding_norm, hidden_norm;  // [H]
  Matrix fc;                                       // [H, 2 H], embedding half first
  LayerWeights layer;
  std::vector<float> final_norm;  // [H]
};

struct Model {
  ModelSpec spec;
  Matrix embedding;               // [vocab_rows, H]
  Matrix head;                    // [vocab_rows, H]; the embedding itself when tied
  std::vector<float> final_norm;  // [H]
  std::vector<LayerWeights> layers;
  std::optional<MtpWeights> mtp;

  std::string path;        // the directory or .gguf file
  int64_t parameters = 0;  // elements of all tensors in use
  int64_t weight_bytes = 0;
  std::shared_ptr<const void> storage;  // keeps the mapping alive

  const LayerWeights& layer(int index) const { return index < spec.trunk_layers() ? layers[index] : mtp->layer; }
};

// Loads a model directory (config.json, *.safetensors, generation_config.json) or a .gguf file (the first one of a
// split). INVALID_ARGUMENT or NOT_FOUND name file, tensor or key, expected and found; an unknown family lists the
// supported ones. What text a model needs is read apart from it: engine/model/model_text.h.
absl::StatusOr<std::shared_ptr<const Model>> LoadModel(const std::string& path);
bool IsGgufPath(const std::string& path);

}  // namespace gantry::engine
