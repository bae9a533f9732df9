// Qwen3.5-MoE (and 3.6): gated delta net and gated attention in turn, a mixture of experts with a gated shared expert
// in every layer, one MTP layer (docs/models.md). safetensors store RMSNorm weights around zero ("1 + w"), except the
// delta net's own norm, and A_log; GGUF files have the one and -exp(A_log) in them and tile the value heads. Keys that
// some releases leave out default to the released models' values.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/families/read_spec.h"
#include "engine/model/families/read_weights.h"
#include "engine/model/families/registry.h"

namespace gantry::engine {
namespace {

constexpr int kFullAttentionInterval = 4;
constexpr double kTheta = 1e7;

absl::Status CheckValueHeads(const GatedDeltaNetSpec& net, const std::string& where) {
  if (net.value_heads % net.key_heads == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      where, ": ", net.value_heads, " delta-net value heads are no multiple of ", net.key_heads, " key heads"));
}

// ---- config.json and safetensors ----

absl::Status ReadSpec(const ConfigObject& config, ModelSpec* spec) {
  const auto dimension = [&](const char* key) { return config.Int(key, 1, kDimensionMax); };
  const auto heads = [&](const char* key) { return config.Int(key, 1, kHeadsMax); };
  GANTRY_ASSIGN_OR_RETURN(AttentionSpec attention,
                          ReadDecoder(config, {.head_dim = 256, .rope = {kTheta, 0.25}, .qk_norm = true}, spec));
  if (!config.Has("max_position_embeddings")) spec->max_context = 262144;
  GANTRY_ASSIGN_OR_RETURN(attention.output_gate, config.BoolOr("attn_output_gate", true));

  GatedDeltaNetSpec net;
  GANTRY_ASSIGN_OR_RETURN(net.key_heads, heads("linear_num_key_heads"));
  GANTRY_ASSIGN_OR_RETURN(net.value_heads, heads("linear_num_value_heads"));
  GANTRY_ASSIGN_OR_RETURN(net.key_dim, config.IntOr("linear_key_head_dim", 128, 1, kHeadDimMax));
  GANTRY_ASSIGN_OR_RETURN(net.value_dim, config.IntOr("linear_value_head_dim", 128, 1, kHeadDimMax));
  GANTRY_ASSIGN_OR_RETURN(net.conv_kernel, config.IntOr("linear_conv_kernel_dim", 4, 2, 16));
  GANTRY_RETURN_IF_ERROR(CheckValueHeads(net, config.where()));

  MixtureOfExpertsSpec experts;
  GANTRY_ASSIGN_OR_RETURN(experts.experts, config.Int("num_experts", 1, kExpertsMax));
  GANTRY_ASSIGN_OR_RETURN(experts.experts_per_token, config.Int("num_experts_per_tok", 1, experts.experts));
  GANTRY_ASSIGN_OR_RETURN(experts.width, dimension("moe_intermediate_size"));
  GANTRY_ASSIGN_OR_RETURN(experts.shared_width, dimension("shared_expert_intermediate_size"));
  experts.shared_gate = true;

  GANTRY_ASSIGN_OR_RETURN(const int64_t layers, ReadLayerCount(config));
  std::vector<std::string> types;
  if (config.Has("layer_types")) {
    GANTRY_ASSIGN_OR_RETURN(types, config.Strings("layer_types"));
    if (static_cast<int64_t>(types.size()) != layers) {
      return absl::InvalidArgumentError(absl::StrCat(config.where(), ": `layer_types`: expected ", layers,
                                                     " entries (num_hidden_layers), found ", types.size()));
    }
  } else {
    GANTRY_ASSIGN_OR_RETURN(const int64_t interval,
                            config.IntOr("full_attention_interval", kFullAttentionInterval, 1, kLayersMax));
    for (int64_t i = 0; i < layers; ++i) {
      types.push_back((i + 1) % interval == 0 ? "full_attention" : "linear_attention");
    }
  }
  for (const std::string& type : types) {
    if (type == "full_attention") {
      spec->layers.push_back({attention, experts});
    } else if (type == "linear_attention") {
      spec->layers.push_back({net, experts});
    } else {
      return absl::InvalidArgumentError(absl::StrCat(config.where(), ": `layer_types`: expected full_attention or ",
                                                     "linear_attention, found ", type));
    }
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

absl::StatusOr<GatedDeltaNetWeights> ReadDeltaNet(const std::string& prefix, const GatedDeltaNetSpec& net,
                                                  WeightsReader& reader) {
  GatedDeltaNetWeights weights;
  TensorSource& tensors = reader.tensors();
  const int64_t value = int64_t{net.value_heads} * net.value_dim, hidden = reader.hidden();
  GANTRY_ASSIGN_OR_RETURN(weights.qkv, tensors.ReadMatrix(prefix + "in_proj_qkv.weight", net.conv_channels(), hidden));
  GANTRY_ASSIGN_OR_RETURN(weights.z, tensors.ReadMatrix(prefix + "in_proj_z.weight", value, hidden));
  GANTRY_ASSIGN_OR_RETURN(weights.b, tensors.ReadMatrix(prefix + "in_proj_b.weight", net.value_heads, hidden));
  GANTRY_ASSIGN_OR_RETURN(weights.a, tensors.ReadMatrix(prefix + "in_proj_a.weight", net.value_heads, hidden));
  GANTRY_ASSIGN_OR_RETURN(weights.out, tensors.ReadMatrix(prefix + "out_proj.weight", hidden, value));
  GANTRY_ASSIGN_OR_RETURN(weights.conv,
                          tensors.ReadVector(prefix + "conv1d.weight", {net.conv_channels(), 1, net.conv_kernel}));
  GANTRY_ASSIGN_OR_RETURN(weights.decay, tensors.ReadVector(prefix + "A_log", {net.value_heads}));
  for (float& a : weights.decay) a = -std::exp(a);
  GANTRY_ASSIGN_OR_RETURN(weights.dt_bias, tensors.ReadVector(prefix + "dt_bias", {net.value_heads}));
  GANTRY_ASSIGN_OR_RETURN(weights.norm, tensors.ReadVector(prefix + "norm.weight", {net.value_dim}));
  return weights;
}

absl::StatusOr<LayerWeights> ReadLayer(const std::string& prefix, const LayerSpec& spec, WeightsReader& reader) {
  const LayerNames names = HuggingFaceLayerNames(prefix);
  GANTRY_ASSIGN_OR_RETURN(LayerWeights layer, reader.NormsAndFfn(names, spec));
  if (const auto* attention = std::get_if<AttentionSpec>(&spec.mixer)) {
    GANTRY_ASSIGN_OR_RETURN(layer.mixer, reader.Attention(names.attention, *attention));
  } else {
    GANTRY_ASSIGN_OR_RETURN(layer.mixer,
                            ReadDeltaNet(prefix + "linear_attn.", std::get<GatedDeltaNetSpec>(spec.mixer), reader));
  }
  return layer;
}

// ---- GGUF ----

absl::Status ReadGgufSpec(const GgufKeys& keys, TensorSource& tensors, ModelSpec* spec) {
  const std::string prefix = "qwen35moe.";
  GANTRY_ASSIGN_OR_RETURN(AttentionSpec attention, ReadGgufDecoder(keys, "qwen35moe", kTheta, tensors, spec));
  attention.output_gate = attention.qk_norm = true;

  GatedDeltaNetSpec net;
  GANTRY_ASSIGN_OR_RETURN(net.key_heads, keys.Int(prefix + "ssm.group_count", 1, kHeadsMax));
  GANTRY_ASSIGN_OR_RETURN(net.value_heads, keys.Int(prefix + "ssm.time_step_rank", 1, kHeadsMax));
  GANTRY_ASSIGN_OR_RETURN(net.key_dim, keys.Int(prefix + "ssm.state_size", 1, kHeadDimMax));
  GANTRY_ASSIGN_OR_RETURN(net.conv_kernel, keys.IntOr(prefix + "ssm.conv_kernel", 4, 2, 16));
  GANTRY_ASSIGN_OR_RETURN(const int64_t inner,
                          keys.Int(prefix + "ssm.inner_size", net.value_heads, int64_t{net.value_heads} * kHeadDimMax));
  net.value_dim = static_cast<int>(inner / net.value_heads);
  GANTRY_RETURN_IF_ERROR(CheckValueHeads(net, keys.where()));
  GANTRY_ASSIGN_OR_RETURN(net.tiled_value_heads, keys.BoolOr(prefix + "ssm.v_head_reordered", true));

  MixtureOfExpertsSpec experts;
  GANTRY_ASSIGN_OR_RETURN(experts.experts, keys.Int(prefix + "expert_count", 1, kExpertsMax));
  GANTRY_ASSIGN_OR_RETURN(experts.experts_per_token, keys.Int(prefix + "expert_used_count", 1, experts.experts));
  GANTRY_ASSIGN_OR_RETURN(experts.width, keys.Int(prefix + "expert_feed_forward_length", 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(experts.shared_width,
                          keys.Int(prefix + "expert_shared_feed_forward_length", 1, kDimensionMax));
  experts.shared_gate = true;

  // MTP layers are counted as blocks, behind the trunk's.
  GANTRY_ASSIGN_OR_RETURN(const int64_t blocks, keys.Int(prefix + "block_count", 1, kLayersMax));
  GANTRY_ASSIGN_OR_RETURN(const int64_t mtp_layers,
                          keys.IntOr(prefix + "nextn_predict_layers", 0, 0, std::min<int64_t>(1, blocks - 1)));
  const int64_t layers = blocks - mtp_layers;
  GANTRY_ASSIGN_OR_RETURN(const int64_t interval,
                          keys.IntOr(prefix + "full_attention_interval", kFullAttentionInterval, 1, kLayersMax));
  GANTRY_ASSIGN_OR_RETURN(const std::vector<int64_t> recurrent,
                          keys.IntOrInts(prefix + "attention.recurrent_layers", 0, 1));
  if (!recurrent.empty() && static_cast<int64_t>(recurrent.size()) < layers) {
    return absl::InvalidArgumentError(absl::StrCat(keys.where(), ": `", prefix,
                                                   "attention.recurrent_layers`: expected ", layers, " entries, found ",
                                                   recurrent.size()));
  }
  for (int64_t i = 0; i < layers; ++i) {
    const bool is_recurrent = recurrent.empty() ? (i + 1) % interval != 0 : recurrent[i] != 0;
    spec->layers.push_back(is_recurrent ? LayerSpec{net, experts} : LayerSpec{attention, experts});
  }
  if (mtp_layers == 1) spec->mtp = LayerSpec{attention, experts};
  return absl::OkStatus();
}

absl::StatusOr<GatedDeltaNetWeights> ReadGgufDeltaNet(const std::string& prefix, const GatedDeltaNetSpec& net,
                                                      WeightsReader& reader) {
  GatedDeltaNetWeights weights;
  TensorSource& tensors = reader.tensors();
  const int64_t value = int64_t{net.value_heads} * net.value_dim, hidden = reader.hidden();
  GANTRY_ASSIGN_OR_RETURN(weights.qkv, tensors.ReadMatrix(prefix + "attn_qkv.weight", net.conv_channels(), hidden));
  GANTRY_ASSIGN_OR_RETURN(weights.z, tensors.ReadMatrix(prefix + "attn_gate.weight", value, hidden));
  GANTRY_ASSIGN_OR_RETURN(weights.b, tensors.ReadMatrix(prefix + "ssm_beta.weight", net.value_heads, hidden));
  GANTRY_ASSIGN_OR_RETURN(weights.a, tensors.ReadMatrix(prefix + "ssm_alpha.weight", net.value_heads, hidden));
  GANTRY_ASSIGN_OR_RETURN(weights.out, tensors.ReadMatrix(prefix + "ssm_out.weight", hidden, value));
  GANTRY_ASSIGN_OR_RETURN(weights.conv,
                          tensors.ReadVector(prefix + "ssm_conv1d.weight", {net.conv_channels(), net.conv_kernel}));
  GANTRY_ASSIGN_OR_RETURN(weights.decay, tensors.ReadVector(prefix + "ssm_a", {net.value_heads}));
  const std::string dt_bias = tensors.Has(prefix + "ssm_dt") ? "ssm_dt" : "ssm_dt.bias";
  GANTRY_ASSIGN_OR_RETURN(weights.dt_bias, tensors.ReadVector(prefix + dt_bias, {net.value_heads}));
  GANTRY_ASSIGN_OR_RETURN(weights.norm, tensors.ReadVector(prefix + "ssm_norm.weight", {net.value_dim}));
  return weights;
}

absl::StatusOr<LayerWeights> ReadGgufLayer(const std::string& prefix, const LayerSpec& spec, WeightsReader& reader) {
  LayerNames names = GgufLayerNames(prefix);
  names.ffn_norm = prefix + "post_attention_norm.weight";
  GANTRY_ASSIGN_OR_RETURN(LayerWeights layer, reader.NormsAndFfn(names, spec));
  if (const auto* attention = std::get_if<AttentionSpec>(&spec.mixer)) {
    GANTRY_ASSIGN_OR_RETURN(layer.mixer, reader.Attention(names.attention, *attention));
  } else {
    GANTRY_ASSIGN_OR_RETURN(layer.mixer, ReadGgufDeltaNet(prefix, std::get<GatedDeltaNetSpec>(spec.mixer), reader));
  }
  return layer;
}

}  // namespace

absl::Status LoadQwen35Moe(const ConfigObject& top, TensorSource& tensors, Model* model) {
  // The vision tower makes embeddings for image placeholders; a text service never reads it.
  tensors.IgnorePrefix("model.visual.");
  tensors.IgnorePrefix("visual.");
  ConfigObject config = top;
  if (top.Has("text_config")) {
    GANTRY_ASSIGN_OR_RETURN(config, top.Object("text_config"));
  }
  ModelSpec& spec = model->spec;
  spec.family = "qwen3_5_moe";
  GANTRY_RETURN_IF_ERROR(ReadSpec(config, &spec));
  GANTRY_ASSIGN_OR_RETURN(const bool top_tied, top.BoolOr("tie_word_embeddings", false));
  GANTRY_ASSIGN_OR_RETURN(spec.tied_head, config.BoolOr("tie_word_embeddings", top_tied));

  const std::string trunk =
      tensors.Has("model.language_model.embed_tokens.weight") ? "model.language_model." : "model.";
  WeightsReader reader(tensors, spec, /*norm_offset=*/1);
  GANTRY_RETURN_IF_ERROR(ReadEnds(HuggingFaceEndNames(trunk), reader, model));
  for (int i = 0; i < spec.trunk_layers(); ++i) {
    GANTRY_ASSIGN_OR_RETURN(LayerWeights layer,
                            ReadLayer(absl::StrCat(trunk, "layers.", i, "."), spec.layers[i], reader));
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
    GANTRY_ASSIGN_OR_RETURN(weights.layer, ReadLayer(mtp + "layers.0.", *spec.mtp, reader));
    GANTRY_ASSIGN_OR_RETURN(weights.final_norm, reader.Norm(mtp + "norm.weight", spec.hidden));
    model->mtp = std::move(weights);
  }
  return absl::OkStatus();
}

absl::Status LoadGgufQwen35Moe(const GgufKeys& keys, TensorSource& tensors, Model* model) {
  // Some bundles carry the vision tower and the MTP layer under their old names.
  for (const char* prefix : {"v.", "mm.", "mtp."}) tensors.IgnorePrefix(prefix);
  ModelSpec& spec = model->spec;
  spec.family = "qwen3_5_moe";
  GANTRY_RETURN_IF_ERROR(ReadGgufSpec(keys, tensors, &spec));
  WeightsReader reader(tensors, spec, /*norm_offset=*/0);
  GANTRY_RETURN_IF_ERROR(ReadEnds(GgufEndNames(), reader, model));
  for (int i = 0; i < spec.trunk_layers(); ++i) {
    GANTRY_ASSIGN_OR_RETURN(LayerWeights layer, ReadGgufLayer(absl::StrCat("blk.", i, "."), spec.layers[i], reader));
    model->layers.push_back(std::move(layer));
  }

  const std::string mtp = absl::StrCat("blk.", spec.trunk_layers(), ".");
  if (!tensors.HasPrefix(mtp)) spec.mtp.reset();
  if (spec.mtp) {
    MtpWeights weights;
    GANTRY_ASSIGN_OR_RETURN(weights.embedding_norm, reader.Norm(mtp + "nextn.enorm.weight", spec.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.hidden_norm, reader.Norm(mtp + "nextn.hnorm.weight", spec.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.fc, tensors.ReadMatrix(mtp + "nextn.eh_proj.weight", spec.hidden, 2 * spec.hidden));
    GANTRY_ASSIGN_OR_RETURN(weights.layer, ReadGgufLayer(mtp, *spec.mtp, reader));
    GANTRY_ASSIGN_OR_RETURN(weights.final_norm, reader.Norm(mtp + "nextn.shared_head_norm.weight", spec.hidden));
    // Copies of the trunk's embedding and head; others would need a spec that tells them apart.
    const std::string head = spec.tied_head ? "token_embd.weight" : "output.weight";
    for (const auto& [copy, original] : {std::pair<std::string, std::string>{"embed_tokens", "token_embd.weight"},
                                         std::pair<std::string, std::string>{"shared_head_head", head}}) {
      const std::string name = absl::StrCat(mtp, "nextn.", copy, ".weight");
      if (tensors.AreEqual(name, original)) tensors.Ignore(name);
    }
    model->mtp = std::move(weights);
  }
  return absl::OkStatus();
}

}  // namespace gantry::engine
