// Weights of layers, read by the names that a family gives them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/model.h"
#include "engine/model/tensor_source.h"

namespace gantry::engine {

struct AttentionNames {
  std::string q, k, v, o;
  std::string q_norm, k_norm;  // read only where the spec has them
};

struct SwiGluNames {
  std::string gate, up, down;
};

// Experts stand in stacks [experts, rows, columns] where the file has the stack, else one by one.
struct ExpertsNames {
  std::string router;
  std::string gate_up_stack;  // gate rows first
  SwiGluNames stacks;
  std::function<SwiGluNames(int expert)> single;
  SwiGluNames shared;  // read only where the spec has a shared expert
  std::string shared_gate;
};

struct LayerNames {
  std::string mixer_norm, ffn_norm;
  AttentionNames attention;
  SwiGluNames dense;
  ExpertsNames experts;
};

// "model.layers.3." -> input_layernorm.weight, self_attn.q_proj.weight, mlp.gate_proj.weight and so on. Experts as Qwen
// names them, under mlp.
LayerNames HuggingFaceLayerNames(const std::string& prefix);
// "blk.3." -> attn_norm.weight, attn_q.weight, ffn_gate.weight, ffn_gate_exps.weight and so on.
LayerNames GgufLayerNames(const std::string& prefix);

class WeightsReader {
 public:
  // norm_offset: added to every norm weight; 1 where a checkpoint stores them around zero.
  WeightsReader(TensorSource& tensors, const ModelSpec& spec, float norm_offset)
      : tensors_(tensors), spec_(spec), norm_offset_(norm_offset) {}

  absl::StatusOr<std::vector<float>> Norm(const std::string& name, int64_t size);
  absl::StatusOr<AttentionWeights> Attention(const AttentionNames& names, const AttentionSpec& spec);
  absl::StatusOr<SwiGluWeights> SwiGlu(const SwiGluNames& names, int64_t width);
  absl::StatusOr<MixtureOfExpertsWeights> Experts(const ExpertsNames& names, const MixtureOfExpertsSpec& spec);
  // Everything but the mixer.
  absl::StatusOr<LayerWeights> NormsAndFfn(const LayerNames& names, const LayerSpec& spec);

  TensorSource& tensors() { return tensors_; }
  int64_t hidden() const { return spec_.hidden; }

 private:
  TensorSource& tensors_;
  const ModelSpec& spec_;
  float norm_offset_;
};

// Embedding, head and final norm. A tied model may carry a byte-equal copy of the embedding as its head.
struct EndNames {
  std::string embedding, head, final_norm;
};
absl::Status ReadEnds(const EndNames& names, WeightsReader& reader, Model* model);

// The whole of a decoder whose layers are attention and feed-forward alone, as model->spec describes it.
absl::Status ReadDecoderWeights(const EndNames& ends, const std::function<LayerNames(int layer)>& layer_names,
                                TensorSource& tensors, Model* model);
EndNames HuggingFaceEndNames(const std::string& trunk);
EndNames GgufEndNames();

}  // namespace gantry::engine
