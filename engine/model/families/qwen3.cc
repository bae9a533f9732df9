// Qwen3 dense: Llama with a norm on every query and key head.
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/families/read_spec.h"
#include "engine/model/families/read_weights.h"
#include "engine/model/families/registry.h"

namespace gantry::engine {

absl::Status LoadQwen3(const ConfigObject& config, TensorSource& tensors, Model* model) {
  ModelSpec& spec = model->spec;
  spec.family = "qwen3";
  GANTRY_ASSIGN_OR_RETURN(const AttentionSpec attention,
                          ReadDecoder(config, {.head_dim = 128, .rope = {.theta = 1e6}, .qk_norm = true}, &spec));
  DenseSpec dense;
  GANTRY_ASSIGN_OR_RETURN(dense.width, config.Int("intermediate_size", 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(const int64_t layers, ReadLayerCount(config));
  spec.layers.assign(layers, LayerSpec{attention, dense});
  return ReadDecoderWeights(
      HuggingFaceEndNames("model."), [](int i) { return HuggingFaceLayerNames(absl::StrCat("model.layers.", i, ".")); },
      tensors, model);
}

absl::Status LoadGgufQwen3(const GgufKeys& keys, TensorSource& tensors, Model* model) {
  ModelSpec& spec = model->spec;
  spec.family = "qwen3";
  GANTRY_ASSIGN_OR_RETURN(AttentionSpec attention, ReadGgufDecoder(keys, "qwen3", 1e6, tensors, &spec));
  attention.qk_norm = true;
  DenseSpec dense;
  GANTRY_ASSIGN_OR_RETURN(dense.width, keys.Int("qwen3.feed_forward_length", 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(const int64_t layers, keys.Int("qwen3.block_count", 1, kLayersMax));
  spec.layers.assign(layers, LayerSpec{attention, dense});
  return ReadDecoderWeights(
      GgufEndNames(), [](int i) { return GgufLayerNames(absl::StrCat("blk.", i, ".")); }, tensors, model);
}

}  // namespace gantry::engine
