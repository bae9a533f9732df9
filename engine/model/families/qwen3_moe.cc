// Qwen3-MoE: Qwen3 with a mixture of experts, no shared one, in all layers but those the config makes dense.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/families/read_spec.h"
#include "engine/model/families/read_weights.h"
#include "engine/model/families/registry.h"

namespace gantry::engine {

absl::Status LoadQwen3Moe(const ConfigObject& config, TensorSource& tensors, Model* model) {
  ModelSpec& spec = model->spec;
  spec.family = "qwen3_moe";
  GANTRY_ASSIGN_OR_RETURN(const AttentionSpec attention,
                          ReadDecoder(config, {.head_dim = 128, .rope = {.theta = 1e6}, .qk_norm = true}, &spec));
  MixtureOfExpertsSpec moe;
  // transformers 5 writes num_local_experts, releases have num_experts.
  const char* experts_key = config.Has("num_experts") ? "num_experts" : "num_local_experts";
  GANTRY_ASSIGN_OR_RETURN(moe.experts, config.Int(experts_key, 1, kExpertsMax));
  GANTRY_ASSIGN_OR_RETURN(moe.experts_per_token, config.Int("num_experts_per_tok", 1, moe.experts));
  GANTRY_ASSIGN_OR_RETURN(moe.width, config.Int("moe_intermediate_size", 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(const bool renormalise, config.BoolOr("norm_topk_prob", false));
  moe.gating = renormalise ? GatingRule::kSoftmaxRenormalised : GatingRule::kSoftmax;

  GANTRY_ASSIGN_OR_RETURN(const int64_t layers, ReadLayerCount(config));
  GANTRY_ASSIGN_OR_RETURN(const int64_t step, config.IntOr("decoder_sparse_step", 1, 1, kLayersMax));
  GANTRY_ASSIGN_OR_RETURN(const std::vector<int64_t> dense_layers, config.IntOrInts("mlp_only_layers", 0, layers - 1));
  for (int64_t i = 0; i < layers; ++i) {
    const bool listed = std::find(dense_layers.begin(), dense_layers.end(), i) != dense_layers.end();
    if (listed || (i + 1) % step != 0) {
      DenseSpec dense;
      GANTRY_ASSIGN_OR_RETURN(dense.width, config.Int("intermediate_size", 1, kDimensionMax));
      spec.layers.push_back({attention, dense});
    } else {
      spec.layers.push_back({attention, moe});
    }
  }
  return ReadDecoderWeights(
      HuggingFaceEndNames("model."), [](int i) { return HuggingFaceLayerNames(absl::StrCat("model.layers.", i, ".")); },
      tensors, model);
}

absl::Status LoadGgufQwen3Moe(const GgufKeys& keys, TensorSource& tensors, Model* model) {
  ModelSpec& spec = model->spec;
  spec.family = "qwen3_moe";
  GANTRY_ASSIGN_OR_RETURN(AttentionSpec attention, ReadGgufDecoder(keys, "qwen3moe", 1e6, tensors, &spec));
  attention.qk_norm = true;
  // The format has no word for norm_topk_prob or for dense layers: files hold models that renormalise and have none.
  MixtureOfExpertsSpec moe;
  GANTRY_ASSIGN_OR_RETURN(moe.experts, keys.Int("qwen3moe.expert_count", 1, kExpertsMax));
  GANTRY_ASSIGN_OR_RETURN(moe.experts_per_token, keys.Int("qwen3moe.expert_used_count", 1, moe.experts));
  GANTRY_ASSIGN_OR_RETURN(moe.width, keys.Int("qwen3moe.expert_feed_forward_length", 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(const int64_t layers, keys.Int("qwen3moe.block_count", 1, kLayersMax));
  spec.layers.assign(layers, LayerSpec{attention, moe});
  return ReadDecoderWeights(
      GgufEndNames(), [](int i) { return GgufLayerNames(absl::StrCat("blk.", i, ".")); }, tensors, model);
}

}  // namespace gantry::engine
