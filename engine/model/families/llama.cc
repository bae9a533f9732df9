// Llama 2, 3 and what is built like it (SmolLM2, Mistral): attention on every head dimension, SwiGLU. GGUF files have
// the rows of q and k reordered so that pairs of rotated dimensions are neighbours; scores do not notice.
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/families/read_spec.h"
#include "engine/model/families/read_weights.h"
#include "engine/model/families/registry.h"

namespace gantry::engine {

absl::Status LoadLlama(const ConfigObject& config, TensorSource& tensors, Model* model) {
  ModelSpec& spec = model->spec;
  spec.family = "llama";
  GANTRY_ASSIGN_OR_RETURN(const AttentionSpec attention, ReadDecoder(config, {.rope = {.theta = 10000}}, &spec));
  DenseSpec dense;
  GANTRY_ASSIGN_OR_RETURN(dense.width, config.Int("intermediate_size", 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(const int64_t layers, ReadLayerCount(config));
  spec.layers.assign(layers, LayerSpec{attention, dense});
  return ReadDecoderWeights(
      HuggingFaceEndNames("model."), [](int i) { return HuggingFaceLayerNames(absl::StrCat("model.layers.", i, ".")); },
      tensors, model);
}

absl::Status LoadGgufLlama(const GgufKeys& keys, TensorSource& tensors, Model* model) {
  GANTRY_ASSIGN_OR_RETURN(const int64_t experts, keys.IntOr("llama.expert_count", 0, 0, kExpertsMax));
  if (experts > 0) return LoadGgufMixtral(keys, tensors, model);
  ModelSpec& spec = model->spec;
  spec.family = "llama";
  GANTRY_ASSIGN_OR_RETURN(AttentionSpec attention, ReadGgufDecoder(keys, "llama", 10000, tensors, &spec));
  attention.rope.interleaved = true;
  DenseSpec dense;
  GANTRY_ASSIGN_OR_RETURN(dense.width, keys.Int("llama.feed_forward_length", 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(const int64_t layers, keys.Int("llama.block_count", 1, kLayersMax));
  spec.layers.assign(layers, LayerSpec{attention, dense});
  return ReadDecoderWeights(
      GgufEndNames(), [](int i) { return GgufLayerNames(absl::StrCat("blk.", i, ".")); }, tensors, model);
}

}  // namespace gantry::engine
