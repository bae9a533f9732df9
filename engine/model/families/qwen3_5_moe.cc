// Qwen3.5-MoE (and 3.6): gated delta net and gated attention in turn, a mixture of experts with a gated shared expert
// in every layer, one MTP layer. Tensor names as released (docs/models.md). Checkpoints store RMSNorm weights around
// zero ("1 + w"), except the delta net's own norm. Keys that some releases leave out default to the released models'
// values.
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/families/registry.h"

namespace gantry::engine {
namespace {

// Bounds keep every product of two sizes below within 32 bits, and a hostile config from asking for the moon.
constexpr int kDimensionMax = 1 << 20;
constexpr int kHeadsMax = 1 << 14;
constexpr int kHeadDimMax = 1 << 12;
constexpr int kLayersMax = 1024;

absl::StatusOr<RopeSpec> ReadRope(const ConfigObject& config, int head_dim) {
  // Spellings: all in `rope_parameters`; or flat keys, with the type in `rope_scaling`.
  ConfigObject rope = config;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.Has(key)) continue;
    GANTRY_ASSIGN_OR_RETURN(rope, config.Object(key));
    GANTRY_ASSIGN_OR_RETURN(const std::string old_type, rope.StringOr("type", "default"));
    GANTRY_ASSIGN_OR_RETURN(const std::string type, rope.StringOr("rope_type", old_type));
    // For text, where a token's three positions are equal, mrope is plain RoPE.
    if (type != "default" && type != "mrope") {
      return absl::InvalidArgumentError(absl::StrCat(rope.where(), ": `rope_type`: expected default, found ", type));
    }
  }
  const auto number = [&](const char* key, double fallback, double min, double max) {
    return (rope.Has(key) ? rope : config).NumberOr(key, fallback, min, max);
  };
  RopeSpec spec;
  GANTRY_ASSIGN_OR_RETURN(spec.theta, number("rope_theta", 1e7, 1.0, 1e12));
  GANTRY_ASSIGN_OR_RETURN(const double fraction, number("partial_rotary_factor", 0.25, 0.0, 1.0));
  spec.rotary_dim = static_cast<int>(head_dim * fraction);
  if (spec.rotary_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(rope.where(), ": `partial_rotary_factor` gives ", spec.rotary_dim,
                                                   " rotated dimensions of ", head_dim, ", expected an even number"));
  }
  return spec;
}

absl::Status ReadSpec(const ConfigObject& config, ModelSpec* spec) {
  const auto dimension = [&](const char* key) { return config.Int(key, 1, kDimensionMax); };
  const auto heads = [&](const char* key) { return config.Int(key, 1, kHeadsMax); };
  spec->family = "qwen3_5_moe";
  GANTRY_ASSIGN_OR_RETURN(spec->hidden, dimension("hidden_size"));
  GANTRY_ASSIGN_OR_RETURN(spec->vocab_rows, config.Int("vocab_size", 1, 1 << 24));
  GANTRY_ASSIGN_OR_RETURN(spec->max_context, config.IntOr("max_position_embeddings", 262144, 2, 1 << 24));
  GANTRY_ASSIGN_OR_RETURN(const double eps, config.NumberOr("rms_norm_eps", 1e-6, 0.0, 1.0));
  spec->rms_eps = static_cast<float>(eps);
  GANTRY_ASSIGN_OR_RETURN(const std::string activation, config.StringOr("hidden_act", "silu"));
  if (activation != "silu") {
    return absl::InvalidArgumentError(
        absl::StrCat(config.where(), ": `hidden_act`: expected silu, found ", activation));
  }

  AttentionSpec attention;
  GANTRY_ASSIGN_OR_RETURN(attention.query_heads, heads("num_attention_heads"));
  GANTRY_ASSIGN_OR_RETURN(attention.kv_heads, heads("num_key_value_heads"));
  GANTRY_ASSIGN_OR_RETURN(attention.head_dim, config.IntOr("head_dim", 256, 1, kHeadDimMax));
  GANTRY_ASSIGN_OR_RETURN(attention.output_gate, config.BoolOr("attn_output_gate", true));
  if (attention.query_heads % attention.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(config.where(), ": ", attention.query_heads,
                                                   " attention heads are no multiple of ", attention.kv_heads,
                                                   " key/value heads"));
  }
  attention.qk_norm = true;
  attention.score_scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  GANTRY_ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim));

  GatedDeltaNetSpec delta_net;
  GANTRY_ASSIGN_OR_RETURN(delta_net.key_heads, heads("linear_num_key_heads"));
  GANTRY_ASSIGN_OR_RETURN(delta_net.value_heads, heads("linear_num_value_heads"));
  GANTRY_ASSIGN_OR_RETURN(delta_net.key_dim, config.IntOr("linear_key_head_dim", 128, 1, kHeadDimMax));
  GANTRY_ASSIGN_OR_RETURN(delta_net.value_dim, config.IntOr("linear_value_head_dim", 128, 1, kHeadDimMax));
  GANTRY_ASSIGN_OR_RETURN(delta_net.conv_kernel, config.IntOr("linear_conv_kernel_dim", 4, 2, 16));
  if (delta_net.value_heads % delta_net.key_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(config.where(), ": ", delta_net.value_heads,
                                                   " delta-net value heads are no multiple of ", delta_net.key_heads,
                                                   " key heads"));
  }

  MixtureOfExpertsSpec experts;
  GANTRY_ASSIGN_OR_RETURN(experts.experts, config.Int("num_experts", 1, 65536));
  GANTRY_ASSIGN_OR_RETURN(experts.experts_per_token, config.Int("num_experts_per_tok", 1, experts.experts));
  GANTRY_ASSIGN_OR_RETURN(experts.width, dimension("moe_intermediate_size"));
  GANTRY_ASSIGN_OR_RETURN(experts.shared_width, dimension("shared_expert_intermediate_size"));
  experts.shared_gate = true;

  GANTRY_ASSIGN_OR_RETURN(const int64_t layers, config.Int("num_hidden_layers", 1, kLayersMax));
  std::vector<std::string> types;
  if (config.Has("layer_types")) {
    GANTRY_ASSIGN_OR_RETURN(types, config.Strings("layer_types"));
    if (static_cast<int64_t>(types.size()) != layers) {
      return absl::InvalidArgumentError(absl::StrCat(config.where(), ": `layer_types`: expected ", layers,
                                                     " entries (num_hidden_layers), found ", types.size()));
    }
  } else {
    GANTRY_ASSIGN_OR_RETURN(const int64_t interval, config.IntOr("full_attention_interval", 4, 1, kLayersMax));
    for (int64_t i = 0; i < layers; ++i) {
      types.push_back((i + 1) % interval == 0 ? "full_attention" : "linear_attention");
    }
  }
  for (const std::string& type : types) {
    LayerSpec layer;
    layer.ffn = experts;
    if (type == "full_attention") {
      layer.mixer = attention;
    } else if (type == "linear_attention") {
      layer.mixer = delta_net;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(config.where(), ": `layer_types`: expected full_attention or ",
                                                     "linear_attention, found ", type));
    }
    spec->layers.push_back(layer);
  }
  GANTRY_ASSIGN_OR_RETURN(const int64_t mtp_layers, config.IntOr("mtp_num_hidden_layers", 1, 0, 1));
  GANTRY_ASSIGN_OR_RETURN(const bool own_embedding, config.BoolOr("mtp_use_dedicated_embeddings", false));
  if (own_embedding) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.where(), ": `mtp_use_dedicated_embeddings`: expected false, found true"));
  }
  if (mtp_layers == 1) spec->mtp = LayerSpec{attention, experts};
  return absl::OkStatus();
}

class Reader {
 public:
  Reader(TensorSource& tensors, const ModelSpec& spec) : tensors_(tensors), spec_(spec) {}

  // RMSNorm weight stored around zero, handed on as 1 + w.
  absl::StatusOr<std::vector<float>> Norm(const std::string& name, int64_t size) {
    GANTRY_ASSIGN_OR_RETURN(std::vector<float> weight, tensors_.ReadVector(name, {size}));
    for (float& w : weight) w += 1.0f;
    return weight;
  }

  absl::StatusOr<LayerWeights> Layer(const std::string& prefix, const LayerSpec& layer) {
    LayerWeights weights;
    GANTRY_ASSIGN_OR_RETURN(weights.mixer_norm, Norm(prefix + "input_layernorm.weight", spec_.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.ffn_norm, Norm(prefix + "post_attention_layernorm.weight", spec_.hidden));
    if (const auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
      GANTRY_ASSIGN_OR_RETURN(weights.mixer, Attention(prefix + "self_attn.", *attention));
    } else {
      GANTRY_ASSIGN_OR_RETURN(weights.mixer,
                              DeltaNet(prefix + "linear_attn.", std::get<GatedDeltaNetSpec>(layer.mixer)));
    }
    GANTRY_ASSIGN_OR_RETURN(weights.ffn, Experts(prefix + "mlp.", std::get<MixtureOfExpertsSpec>(layer.ffn)));
    return weights;
  }

 private:
  absl::StatusOr<AttentionWeights> Attention(const std::string& prefix, const AttentionSpec& spec) {
    AttentionWeights weights;
    const int64_t query = static_cast<int64_t>(spec.query_heads) * spec.head_dim;
    const int64_t kv = static_cast<int64_t>(spec.kv_heads) * spec.head_dim;
    GANTRY_ASSIGN_OR_RETURN(
        weights.q, tensors_.ReadMatrix(prefix + "q_proj.weight", query * (spec.output_gate ? 2 : 1), spec_.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.k, tensors_.ReadMatrix(prefix + "k_proj.weight", kv, spec_.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.v, tensors_.ReadMatrix(prefix + "v_proj.weight", kv, spec_.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.o, tensors_.ReadMatrix(prefix + "o_proj.weight", spec_.hidden, query));
    GANTRY_ASSIGN_OR_RETURN(weights.q_norm, Norm(prefix + "q_norm.weight", spec.head_dim));
    GANTRY_ASSIGN_OR_RETURN(weights.k_norm, Norm(prefix + "k_norm.weight", spec.head_dim));
    return weights;
  }

  absl::StatusOr<GatedDeltaNetWeights> DeltaNet(const std::string& prefix, const GatedDeltaNetSpec& spec) {
    GatedDeltaNetWeights weights;
    const int64_t value = static_cast<int64_t>(spec.value_heads) * spec.value_dim;
    GANTRY_ASSIGN_OR_RETURN(weights.qkv,
                            tensors_.ReadMatrix(prefix + "in_proj_qkv.weight", spec.conv_channels(), spec_.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.z, tensors_.ReadMatrix(prefix + "in_proj_z.weight", value, spec_.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.b,
                            tensors_.ReadMatrix(prefix + "in_proj_b.weight", spec.value_heads, spec_.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.a,
                            tensors_.ReadMatrix(prefix + "in_proj_a.weight", spec.value_heads, spec_.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.out, tensors_.ReadMatrix(prefix + "out_proj.weight", spec_.hidden, value));
    GANTRY_ASSIGN_OR_RETURN(weights.conv,
                            tensors_.ReadVector(prefix + "conv1d.weight", {spec.conv_channels(), 1, spec.conv_kernel}));
    GANTRY_ASSIGN_OR_RETURN(weights.decay, tensors_.ReadVector(prefix + "A_log", {spec.value_heads}));
    for (float& a : weights.decay) a = -std::exp(a);
    GANTRY_ASSIGN_OR_RETURN(weights.dt_bias, tensors_.ReadVector(prefix + "dt_bias", {spec.value_heads}));
    GANTRY_ASSIGN_OR_RETURN(weights.norm, tensors_.ReadVector(prefix + "norm.weight", {spec.value_dim}));
    return weights;
  }

  absl::StatusOr<SwiGluWeights> SwiGlu(const std::string& prefix, int64_t width) {
    SwiGluWeights weights;
    GANTRY_ASSIGN_OR_RETURN(weights.gate, tensors_.ReadMatrix(prefix + "gate_proj.weight", width, spec_.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.up, tensors_.ReadMatrix(prefix + "up_proj.weight", width, spec_.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.down, tensors_.ReadMatrix(prefix + "down_proj.weight", spec_.hidden, width));
    return weights;
  }

  absl::StatusOr<MixtureOfExpertsWeights> Experts(const std::string& prefix, const MixtureOfExpertsSpec& spec) {
    MixtureOfExpertsWeights weights;
    GANTRY_ASSIGN_OR_RETURN(weights.router, tensors_.ReadMatrix(prefix + "gate.weight", spec.experts, spec_.hidden));
    if (tensors_.Has(prefix + "experts.gate_up_proj")) {
      // Fused: rows [0, width) are gate, [width, 2 width) are up.
      GANTRY_ASSIGN_OR_RETURN(
          const std::vector<Matrix> gate_up,
          tensors_.ReadMatrices(prefix + "experts.gate_up_proj", spec.experts, 2 * spec.width, spec_.hidden));
      GANTRY_ASSIGN_OR_RETURN(
          const std::vector<Matrix> down,
          tensors_.ReadMatrices(prefix + "experts.down_proj", spec.experts, spec_.hidden, spec.width));
      for (int e = 0; e < spec.experts; ++e) {
        weights.experts.push_back({gate_up[e].Rows(0, spec.width), gate_up[e].Rows(spec.width, spec.width), down[e]});
      }
    } else {
      for (int e = 0; e < spec.experts; ++e) {
        GANTRY_ASSIGN_OR_RETURN(SwiGluWeights expert, SwiGlu(absl::StrCat(prefix, "experts.", e, "."), spec.width));
        weights.experts.push_back(expert);
      }
    }
    GANTRY_ASSIGN_OR_RETURN(weights.shared, SwiGlu(prefix + "shared_expert.", spec.shared_width));
    GANTRY_ASSIGN_OR_RETURN(weights.shared_gate,
                            tensors_.ReadMatrix(prefix + "shared_expert_gate.weight", 1, spec_.hidden));
    return weights;
  }

  TensorSource& tensors_;
  const ModelSpec& spec_;
};

}  // namespace

absl::Status LoadQwen35Moe(const ConfigObject& top, TensorSource& tensors, Model* model) {
  ConfigObject config = top;
  if (top.Has("text_config")) {
    GANTRY_ASSIGN_OR_RETURN(config, top.Object("text_config"));
  }
  ModelSpec& spec = model->spec;
  GANTRY_RETURN_IF_ERROR(ReadSpec(config, &spec));
  GANTRY_ASSIGN_OR_RETURN(const bool top_tied, top.BoolOr("tie_word_embeddings", false));
  GANTRY_ASSIGN_OR_RETURN(spec.tied_head, config.BoolOr("tie_word_embeddings", top_tied));

  const std::string trunk =
      tensors.Has("model.language_model.embed_tokens.weight") ? "model.language_model." : "model.";
  GANTRY_ASSIGN_OR_RETURN(model->embedding,
                          tensors.ReadMatrix(trunk + "embed_tokens.weight", spec.vocab_rows, spec.hidden));
  model->head = model->embedding;
  if (spec.tied_head) {
    // Some exports write the embedding a second time; any other head would contradict the config.
    if (tensors.AreEqual("lm_head.weight", trunk + "embed_tokens.weight")) tensors.Ignore("lm_head.weight");
  } else {
    GANTRY_ASSIGN_OR_RETURN(model->head, tensors.ReadMatrix("lm_head.weight", spec.vocab_rows, spec.hidden));
  }
  Reader reader(tensors, spec);
  GANTRY_ASSIGN_OR_RETURN(model->final_norm, reader.Norm(trunk + "norm.weight", spec.hidden));
  for (int i = 0; i < spec.trunk_layers(); ++i) {
    GANTRY_ASSIGN_OR_RETURN(LayerWeights layer, reader.Layer(absl::StrCat(trunk, "layers.", i, "."), spec.layers[i]));
    model->layers.push_back(std::move(layer));
  }

  // Many re-quantised releases drop the MTP layer: then there is none, whatever the config says.
  const std::string mtp = tensors.HasPrefix("model.mtp.") ? "model.mtp." : "mtp.";
  if (!tensors.HasPrefix(mtp)) spec.mtp.reset();
  if (spec.mtp) {
    MtpWeights weights;
    GANTRY_ASSIGN_OR_RETURN(weights.embedding_norm, reader.Norm(mtp + "pre_fc_norm_embedding.weight", spec.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.hidden_norm, reader.Norm(mtp + "pre_fc_norm_hidden.weight", spec.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.fc, tensors.ReadMatrix(mtp + "fc.weight", spec.hidden, 2 * spec.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.layer, reader.Layer(mtp + "layers.0.", *spec.mtp));
    GANTRY_ASSIGN_OR_RETURN(weights.final_norm, reader.Norm(mtp + "norm.weight", spec.hidden));
    model->mtp = std::move(weights);
  }
  return absl::OkStatus();
}

}  // namespace gantry::engine
