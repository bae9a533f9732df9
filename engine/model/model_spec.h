// Models as data: what a checkpoint is, independent of the file it came from and of the backend that runs it.
//
// A family file (families/*.cc) turns config.json or GGUF keys into a ModelSpec and names its tensors; nothing else
// in the engine knows a family's name. Formulas: docs/models.md. Matrices are [out_features, in_features], row-major.
// Plain data, immutable after loading, shared between threads without locks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/base/token_id.h"

namespace gantry::engine {

// Rotary position embedding: at position t, pair p of a head's first dims turns by t * frequencies[p]. How a checkpoint
// stretches its frequencies (llama3, YaRN, ...) is already in them (engine/model/rope.h).
struct RopeSpec {
  int rotary_dim = 0;               // first dims of a head that are rotated
  bool interleaved = false;         // pairs are (2 p, 2 p + 1) instead of (p, p + rotary_dim / 2)
  std::vector<double> frequencies;  // [rotary_dim / 2], radians a position
  double magnitude = 1.0;           // both cosine and sine are multiplied by it
};

// Softmax attention over a paged KV cache. Head h of the queries reads KV head h / (query_heads / kv_heads).
struct AttentionSpec {
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  bool output_gate = false;  // q_proj carries [query head_dim | gate head_dim] per head; output *= sigmoid(gate)
  bool qk_norm = false;      // RMSNorm over head_dim of q and k, before RoPE
  RopeSpec rope;
  float score_scale = 0;  // usually 1/sqrt(head_dim)
};

// Gated delta rule with a causal depthwise convolution in front. State: value_heads x [key_dim, value_dim] float32,
// plus the last conv_kernel - 1 inputs of the convolution.
struct GatedDeltaNetSpec {
  int key_heads = 0;
  int value_heads = 0;
  int key_dim = 0;
  int value_dim = 0;
  int conv_kernel = 0;
  // Which key head a value head reads: h / (value_heads / key_heads), or h % key_heads in files that tile them.
  bool tiled_value_heads = false;
  int conv_channels() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
};

using MixerSpec = std::variant<AttentionSpec, GatedDeltaNetSpec>;

struct DenseSpec {
  int width = 0;  // SwiGLU
};

enum class GatingRule {
  // Softmax over all experts, then the k largest; ties go to the lower index.
  kSoftmaxRenormalised,  // weights divided by the sum of the chosen
  kSoftmax,              // weights as they are
};

struct MixtureOfExpertsSpec {
  int experts = 0;
  int experts_per_token = 0;
  int width = 0;
  int shared_width = 0;      // 0: no shared expert
  bool shared_gate = false;  // shared expert's output times sigmoid(gate . x)
  GatingRule gating = GatingRule::kSoftmaxRenormalised;
};

using FfnSpec = std::variant<DenseSpec, MixtureOfExpertsSpec>;

struct LayerSpec {
  MixerSpec mixer;
  FfnSpec ffn;
};

struct ModelSpec {
  std::string family;   // "qwen3_5_moe"
  int hidden = 0;       // H
  int vocab_rows = 0;   // rows of embedding and head, padding included
  int max_context = 0;  // positions
  float rms_eps = 1e-6f;
  bool tied_head = false;
  std::vector<LayerSpec> layers;
  // Multi-token prediction: one more layer, addressed as layer index layers.size(). Absent when the file has no such
  // weights.
  std::optional<LayerSpec> mtp;
  std::vector<TokenId> stop_ids;  // from generation_config.json, else config.json

  int trunk_layers() const { return static_cast<int>(layers.size()); }
  // Trunk layers and, if present, the MTP layer.
  int total_layers() const { return trunk_layers() + (mtp ? 1 : 0); }
  const LayerSpec& layer(int index) const { return index < trunk_layers() ? layers[index] : *mtp; }
};

}  // namespace gantry::engine
