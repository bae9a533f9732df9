// Parts of a spec that several families state in the same words, from config.json and from GGUF keys.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/format/config_json.h"
#include "engine/format/gguf.h"
#include "engine/model/model_spec.h"
#include "engine/model/tensor_source.h"

namespace gantry::engine {

// Bounds keep every product of two sizes within 64 bits, and a hostile file from asking for the moon.
inline constexpr int kDimensionMax = 1 << 20;
inline constexpr int kVocabularyMax = 1 << 24;
inline constexpr int kContextMax = 1 << 24;
inline constexpr int kHeadsMax = 1 << 14;
inline constexpr int kHeadDimMax = 1 << 12;
inline constexpr int kLayersMax = 1024;
inline constexpr int kExpertsMax = 65536;

// ---- config.json ----

struct RopeDefaults {
  double theta = 10000;
  double rotated_fraction = 1;
};
// Keys stand in `rope_parameters`, or flat with the scaling in `rope_scaling`. Types: default, linear, llama3, yarn
// (and mrope, which for text is default). YaRN raises spec->max_context to what it was made for.
absl::StatusOr<RopeSpec> ReadRope(const ConfigObject& config, int head_dim, const RopeDefaults& defaults,
                                  ModelSpec* spec);

// Sizes, norm and context of a plain decoder (llama and its kin), and its attention, the same in every layer. Refuses
// biases and other activations. A sliding window ends the context, within which it is no window.
struct DecoderDefaults {
  int head_dim = 0;  // 0: hidden_size / num_attention_heads
  RopeDefaults rope;
  double rms_eps = 1e-6;
  bool qk_norm = false;
};
absl::StatusOr<AttentionSpec> ReadDecoder(const ConfigObject& config, const DecoderDefaults& defaults, ModelSpec* spec);
absl::StatusOr<int64_t> ReadLayerCount(const ConfigObject& config);

// ---- GGUF: keys are prefixed with the architecture ----

// rope.freq_base, rope.dimension_count and rope.scaling.*, and the divisors in rope_freqs.weight where a file has them.
absl::StatusOr<RopeSpec> ReadGgufRope(const GgufKeys& keys, const std::string& architecture, int head_dim,
                                      double theta_default, TensorSource& tensors);
// Sizes, norm and context, and the attention of every layer that has one.
absl::StatusOr<AttentionSpec> ReadGgufDecoder(const GgufKeys& keys, const std::string& architecture,
                                              double theta_default, TensorSource& tensors, ModelSpec* spec);

// ---- both ----

// query_heads must be a multiple of kv_heads. `where` starts the message.
absl::Status CheckHeads(const AttentionSpec& attention, const std::string& where);

}  // namespace gantry::engine
