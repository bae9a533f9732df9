#include "engine/model/families/read_weights.h"

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::engine {

LayerNames HuggingFaceLayerNames(const std::string& prefix) {
  const auto swiglu = [](const std::string& at) {
    return SwiGluNames{at + "gate_proj.weight", at + "up_proj.weight", at + "down_proj.weight"};
  };
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  return {
      .mixer_norm = prefix + "input_layernorm.weight",
      .ffn_norm = prefix + "post_attention_layernorm.weight",
      .attention = {attention + "q_proj.weight", attention + "k_proj.weight", attention + "v_proj.weight",
                    attention + "o_proj.weight", attention + "q_norm.weight", attention + "k_norm.weight"},
      .dense = swiglu(mlp),
      .experts = {.router = mlp + "gate.weight",
                  .gate_up_stack = mlp + "experts.gate_up_proj",
                  .stacks = {.gate = "", .up = "", .down = mlp + "experts.down_proj"},
                  .single = [mlp, swiglu](int e) { return swiglu(absl::StrCat(mlp, "experts.", e, ".")); },
                  .shared = swiglu(mlp + "shared_expert."),
                  .shared_gate = mlp + "shared_expert_gate.weight"},
  };
}

LayerNames GgufLayerNames(const std::string& prefix) {
  const auto swiglu = [&prefix](const std::string& suffix) {
    return SwiGluNames{prefix + "ffn_gate" + suffix, prefix + "ffn_up" + suffix, prefix + "ffn_down" + suffix};
  };
  return {
      .mixer_norm = prefix + "attn_norm.weight",
      .ffn_norm = prefix + "ffn_norm.weight",
      .attention = {prefix + "attn_q.weight", prefix + "attn_k.weight", prefix + "attn_v.weight",
                    prefix + "attn_output.weight", prefix + "attn_q_norm.weight", prefix + "attn_k_norm.weight"},
      .dense = swiglu(".weight"),
      .experts =
          {.router = prefix + "ffn_gate_inp.weight",
           .gate_up_stack = prefix + "ffn_gate_up_exps.weight",
           .stacks = swiglu("_exps.weight"),
           // The oldest files.
           .single =
               [prefix](int e) {
                 const std::string tail = absl::StrCat(".", e, ".weight");
                 return SwiGluNames{prefix + "ffn_gate" + tail, prefix + "ffn_up" + tail, prefix + "ffn_down" + tail};
               },
           .shared = swiglu("_shexp.weight"),
           .shared_gate = prefix + "ffn_gate_inp_shexp.weight"},
  };
}

EndNames HuggingFaceEndNames(const std::string& trunk) {
  return {trunk + "embed_tokens.weight", "lm_head.weight", trunk + "norm.weight"};
}

EndNames GgufEndNames() {
  return {"token_embd.weight", "output.weight", "output_norm.weight"};
}

absl::StatusOr<std::vector<float>> WeightsReader::Norm(const std::string& name, int64_t size) {
  GANTRY_ASSIGN_OR_RETURN(std::vector<float> weight, tensors_.ReadVector(name, {size}));
  for (float& w : weight) w += norm_offset_;
  return weight;
}

absl::StatusOr<AttentionWeights> WeightsReader::Attention(const AttentionNames& names, const AttentionSpec& spec) {
  AttentionWeights weights;
  const int64_t query = int64_t{spec.query_heads} * spec.head_dim, kv = int64_t{spec.kv_heads} * spec.head_dim;
  GANTRY_ASSIGN_OR_RETURN(weights.q, tensors_.ReadMatrix(names.q, query * (spec.output_gate ? 2 : 1), hidden()));
  GANTRY_ASSIGN_OR_RETURN(weights.k, tensors_.ReadMatrix(names.k, kv, hidden()));
  GANTRY_ASSIGN_OR_RETURN(weights.v, tensors_.ReadMatrix(names.v, kv, hidden()));
  GANTRY_ASSIGN_OR_RETURN(weights.o, tensors_.ReadMatrix(names.o, hidden(), query));
  if (spec.qk_norm) {
    GANTRY_ASSIGN_OR_RETURN(weights.q_norm, Norm(names.q_norm, spec.head_dim));
    GANTRY_ASSIGN_OR_RETURN(weights.k_norm, Norm(names.k_norm, spec.head_dim));
  }
  return weights;
}

absl::StatusOr<SwiGluWeights> WeightsReader::SwiGlu(const SwiGluNames& names, int64_t width) {
  SwiGluWeights weights;
  GANTRY_ASSIGN_OR_RETURN(weights.gate, tensors_.ReadMatrix(names.gate, width, hidden()));
  GANTRY_ASSIGN_OR_RETURN(weights.up, tensors_.ReadMatrix(names.up, width, hidden()));
  GANTRY_ASSIGN_OR_RETURN(weights.down, tensors_.ReadMatrix(names.down, hidden(), width));
  return weights;
}

absl::StatusOr<MixtureOfExpertsWeights> WeightsReader::Experts(const ExpertsNames& names,
                                                               const MixtureOfExpertsSpec& spec) {
  MixtureOfExpertsWeights weights;
  GANTRY_ASSIGN_OR_RETURN(weights.router, tensors_.ReadMatrix(names.router, spec.experts, hidden()));
  if (tensors_.Has(names.gate_up_stack)) {
    GANTRY_ASSIGN_OR_RETURN(const std::vector<Matrix> gate_up,
                            tensors_.ReadMatrices(names.gate_up_stack, spec.experts, 2 * spec.width, hidden()));
    GANTRY_ASSIGN_OR_RETURN(const std::vector<Matrix> down,
                            tensors_.ReadMatrices(names.stacks.down, spec.experts, hidden(), spec.width));
    for (int e = 0; e < spec.experts; ++e) {
      weights.experts.push_back({gate_up[e].Rows(0, spec.width), gate_up[e].Rows(spec.width, spec.width), down[e]});
    }
  } else if (tensors_.Has(names.stacks.gate)) {
    GANTRY_ASSIGN_OR_RETURN(const std::vector<Matrix> gate,
                            tensors_.ReadMatrices(names.stacks.gate, spec.experts, spec.width, hidden()));
    GANTRY_ASSIGN_OR_RETURN(const std::vector<Matrix> up,
                            tensors_.ReadMatrices(names.stacks.up, spec.experts, spec.width, hidden()));
    GANTRY_ASSIGN_OR_RETURN(const std::vector<Matrix> down,
                            tensors_.ReadMatrices(names.stacks.down, spec.experts, hidden(), spec.width));
    for (int e = 0; e < spec.experts; ++e) weights.experts.push_back({gate[e], up[e], down[e]});
  } else {
    for (int e = 0; e < spec.experts; ++e) {
      GANTRY_ASSIGN_OR_RETURN(SwiGluWeights expert, SwiGlu(names.single(e), spec.width));
      weights.experts.push_back(expert);
    }
  }
  if (spec.shared_width > 0) {
    GANTRY_ASSIGN_OR_RETURN(weights.shared, SwiGlu(names.shared, spec.shared_width));
    if (spec.shared_gate) {
      GANTRY_ASSIGN_OR_RETURN(weights.shared_gate, tensors_.ReadMatrix(names.shared_gate, 1, hidden()));
    }
  }
  return weights;
}

absl::StatusOr<LayerWeights> WeightsReader::NormsAndFfn(const LayerNames& names, const LayerSpec& spec) {
  LayerWeights weights;
  GANTRY_ASSIGN_OR_RETURN(weights.mixer_norm, Norm(names.mixer_norm, hidden()));
  GANTRY_ASSIGN_OR_RETURN(weights.ffn_norm, Norm(names.ffn_norm, hidden()));
  if (const auto* dense = std::get_if<DenseSpec>(&spec.ffn)) {
    GANTRY_ASSIGN_OR_RETURN(weights.ffn, SwiGlu(names.dense, dense->width));
  } else {
    GANTRY_ASSIGN_OR_RETURN(weights.ffn, Experts(names.experts, std::get<MixtureOfExpertsSpec>(spec.ffn)));
  }
  return weights;
}

absl::Status ReadEnds(const EndNames& names, WeightsReader& reader, Model* model) {
  TensorSource& tensors = reader.tensors();
  const ModelSpec& spec = model->spec;
  GANTRY_ASSIGN_OR_RETURN(model->embedding, tensors.ReadMatrix(names.embedding, spec.vocab_rows, spec.hidden));
  model->head = model->embedding;
  if (spec.tied_head) {
    // Any other head would contradict the config.
    if (tensors.AreEqual(names.head, names.embedding)) tensors.Ignore(names.head);
  } else {
    GANTRY_ASSIGN_OR_RETURN(model->head, tensors.ReadMatrix(names.head, spec.vocab_rows, spec.hidden));
  }
  GANTRY_ASSIGN_OR_RETURN(model->final_norm, reader.Norm(names.final_norm, spec.hidden));
  return absl::OkStatus();
}

absl::Status ReadDecoderWeights(const EndNames& ends, const std::function<LayerNames(int layer)>& layer_names,
                                TensorSource& tensors, Model* model) {
  const ModelSpec& spec = model->spec;
  WeightsReader reader(tensors, spec, /*norm_offset=*/0);
  GANTRY_RETURN_IF_ERROR(ReadEnds(ends, reader, model));
  for (int i = 0; i < spec.trunk_layers(); ++i) {
    const LayerNames names = layer_names(i);
    GANTRY_ASSIGN_OR_RETURN(LayerWeights layer, reader.NormsAndFfn(names, spec.layers[i]));
    GANTRY_ASSIGN_OR_RETURN(layer.mixer,
                            reader.Attention(names.attention, std::get<AttentionSpec>(spec.layers[i].mixer)));
    model->layers.push_back(std::move(layer));
  }
  return absl::OkStatus();
}

}  // namespace gantry::engine
