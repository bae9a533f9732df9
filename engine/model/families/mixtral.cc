// Mixtral: Llama with a mixture of experts in every layer. Its GGUF architecture is `llama` too; llama.cc sends files
// with experts here.
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/families/read_spec.h"
#include "engine/model/families/read_weights.h"
#include "engine/model/families/registry.h"

namespace gantry::engine {
namespace {

LayerNames MixtralLayerNames(int layer) {
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  LayerNames names = HuggingFaceLayerNames(prefix);
  const std::string moe = prefix + "block_sparse_moe.";
  names.experts = {};
  names.experts.router = moe + "gate.weight";
  names.experts.single = [moe](int e) {
    const std::string expert = absl::StrCat(moe, "experts.", e, ".");
    return SwiGluNames{.gate = expert + "w1.weight", .up = expert + "w3.weight", .down = expert + "w2.weight"};
  };
  return names;
}

}  // namespace

absl::Status LoadMixtral(const ConfigObject& config, TensorSource& tensors, Model* model) {
  ModelSpec& spec = model->spec;
  spec.family = "mixtral";
  GANTRY_ASSIGN_OR_RETURN(const AttentionSpec attention,
                          ReadDecoder(config, {.rope = {.theta = 1e6}, .rms_eps = 1e-5}, &spec));
  MixtureOfExpertsSpec moe;
  GANTRY_ASSIGN_OR_RETURN(moe.experts, config.Int("num_local_experts", 1, kExpertsMax));
  GANTRY_ASSIGN_OR_RETURN(moe.experts_per_token, config.IntOr("num_experts_per_tok", 2, 1, moe.experts));
  GANTRY_ASSIGN_OR_RETURN(moe.width, config.Int("intermediate_size", 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(const int64_t layers, ReadLayerCount(config));
  spec.layers.assign(layers, LayerSpec{attention, moe});
  return ReadDecoderWeights(HuggingFaceEndNames("model."), MixtralLayerNames, tensors, model);
}

absl::Status LoadGgufMixtral(const GgufKeys& keys, TensorSource& tensors, Model* model) {
  ModelSpec& spec = model->spec;
  spec.family = "mixtral";
  GANTRY_ASSIGN_OR_RETURN(AttentionSpec attention, ReadGgufDecoder(keys, "llama", 1e6, tensors, &spec));
  attention.rope.interleaved = true;
  MixtureOfExpertsSpec moe;
  GANTRY_ASSIGN_OR_RETURN(moe.experts, keys.Int("llama.expert_count", 1, kExpertsMax));
  GANTRY_ASSIGN_OR_RETURN(moe.experts_per_token, keys.Int("llama.expert_used_count", 1, moe.experts));
  GANTRY_ASSIGN_OR_RETURN(const int64_t width, keys.IntOr("llama.feed_forward_length", 0, 0, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(moe.width, keys.IntOr("llama.expert_feed_forward_length", width, 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(const int64_t layers, keys.Int("llama.block_count", 1, kLayersMax));
  spec.layers.assign(layers, LayerSpec{attention, moe});
  return ReadDecoderWeights(
      GgufEndNames(), [](int i) { return GgufLayerNames(absl::StrCat("blk.", i, ".")); }, tensors, model);
}

}  // namespace gantry::engine
