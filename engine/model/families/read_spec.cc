#include "engine/model/families/read_spec.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/rope.h"

namespace gantry::engine {
namespace {

constexpr double kThetaMax = 1e12;
constexpr double kFactorMax = 1e6;

float ScoreScale(int head_dim) {
  return 1.0f / std::sqrt(static_cast<float>(head_dim));
}

// transformers' rules for the factor on cosine and sine.
absl::StatusOr<double> ReadYarnMagnitude(const ConfigObject& rope, double factor) {
  if (rope.Has("attention_factor")) return rope.NumberOr("attention_factor", 1, 0, kFactorMax);
  GANTRY_ASSIGN_OR_RETURN(const double mscale, rope.NumberOr("mscale", 0, 0, kFactorMax));
  GANTRY_ASSIGN_OR_RETURN(const double mscale_all, rope.NumberOr("mscale_all_dim", 0, 0, kFactorMax));
  if (mscale != 0 && mscale_all != 0) return YarnMagnitude(factor, mscale) / YarnMagnitude(factor, mscale_all);
  return YarnMagnitude(factor);
}

absl::Status Stretch(const ConfigObject& rope, const std::string& type, double theta, ModelSpec* spec, RopeSpec* out) {
  if (type == "default" || type == "mrope") return absl::OkStatus();
  GANTRY_ASSIGN_OR_RETURN(const double original,
                          rope.NumberOr("original_max_position_embeddings", spec->max_context, 1, kContextMax));
  GANTRY_ASSIGN_OR_RETURN(const double factor, rope.NumberOr("factor", spec->max_context / original, 1, kFactorMax));
  if (type == "linear") {
    StretchLinearly(factor, out);
  } else if (type == "llama3") {
    Llama3Stretch stretch{.factor = factor, .original_context = original};
    GANTRY_ASSIGN_OR_RETURN(stretch.low_frequency_factor, rope.NumberOr("low_freq_factor", 1, 1e-6, kFactorMax));
    GANTRY_ASSIGN_OR_RETURN(stretch.high_frequency_factor, rope.NumberOr("high_freq_factor", 4, 1e-6, kFactorMax));
    if (stretch.high_frequency_factor <= stretch.low_frequency_factor) {
      return absl::InvalidArgumentError(
          absl::StrCat(rope.where(), ": expected `high_freq_factor` above `low_freq_factor`, found ",
                       stretch.high_frequency_factor, " and ", stretch.low_frequency_factor));
    }
    StretchLikeLlama3(stretch, out);
  } else {
    YarnStretch stretch{.theta = theta, .factor = factor, .original_context = original};
    GANTRY_ASSIGN_OR_RETURN(stretch.beta_fast, rope.NumberOr("beta_fast", 32, 1e-6, kFactorMax));
    GANTRY_ASSIGN_OR_RETURN(stretch.beta_slow, rope.NumberOr("beta_slow", 1, 1e-6, kFactorMax));
    GANTRY_ASSIGN_OR_RETURN(stretch.truncate, rope.BoolOr("truncate", true));
    GANTRY_ASSIGN_OR_RETURN(stretch.magnitude, ReadYarnMagnitude(rope, factor));
    StretchLikeYarn(stretch, out);
    const double reach = std::min<double>(original * factor, kContextMax);
    spec->max_context = std::max(spec->max_context, static_cast<int>(reach));
  }
  return absl::OkStatus();
}

absl::Status CheckRotaryDim(const std::string& where, double rotary_dim, int head_dim) {
  const int dim = static_cast<int>(rotary_dim);
  if (dim % 2 == 0 && dim <= head_dim) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": ", dim, " rotated dimensions of ", head_dim, ", expected an even number within the head"));
}

}  // namespace

absl::Status CheckHeads(const AttentionSpec& attention, const std::string& where) {
  if (attention.query_heads % attention.kv_heads == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", attention.query_heads,
                                                 " attention heads are no multiple of ", attention.kv_heads,
                                                 " key/value heads"));
}

absl::StatusOr<RopeSpec> ReadRope(const ConfigObject& config, int head_dim, const RopeDefaults& defaults,
                                  ModelSpec* spec) {
  ConfigObject rope = config;
  std::string type = "default";
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.Has(key)) continue;
    GANTRY_ASSIGN_OR_RETURN(rope, config.Object(key));
    GANTRY_ASSIGN_OR_RETURN(const std::string old_type, rope.StringOr("type", "default"));
    GANTRY_ASSIGN_OR_RETURN(type, rope.StringOr("rope_type", old_type));
    if (type != "default" && type != "mrope" && type != "linear" && type != "llama3" && type != "yarn") {
      return absl::InvalidArgumentError(
          absl::StrCat(rope.where(), ": `rope_type`: expected default, linear, llama3 or yarn, found ", type));
    }
  }
  const auto number = [&](const char* key, double fallback, double min, double max) {
    return (rope.Has(key) ? rope : config).NumberOr(key, fallback, min, max);
  };
  GANTRY_ASSIGN_OR_RETURN(const double theta, number("rope_theta", defaults.theta, 1.0001, kThetaMax));
  GANTRY_ASSIGN_OR_RETURN(const double fraction, number("partial_rotary_factor", defaults.rotated_fraction, 0.0, 1.0));
  const int rotary_dim = static_cast<int>(head_dim * fraction);
  GANTRY_RETURN_IF_ERROR(CheckRotaryDim(absl::StrCat(rope.where(), ": `partial_rotary_factor`"), rotary_dim, head_dim));
  RopeSpec out = PlainRope(rotary_dim, theta);
  GANTRY_RETURN_IF_ERROR(Stretch(rope, type, theta, spec, &out));
  return out;
}

absl::StatusOr<AttentionSpec> ReadDecoder(const ConfigObject& config, const DecoderDefaults& defaults,
                                          ModelSpec* spec) {
  GANTRY_ASSIGN_OR_RETURN(spec->hidden, config.Int("hidden_size", 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(spec->vocab_rows, config.Int("vocab_size", 1, kVocabularyMax));
  GANTRY_ASSIGN_OR_RETURN(spec->max_context, config.IntOr("max_position_embeddings", 4096, 2, kContextMax));
  GANTRY_ASSIGN_OR_RETURN(const double eps, config.NumberOr("rms_norm_eps", defaults.rms_eps, 0.0, 1.0));
  spec->rms_eps = static_cast<float>(eps);
  GANTRY_ASSIGN_OR_RETURN(const std::string activation, config.StringOr("hidden_act", "silu"));
  if (activation != "silu") {
    return absl::InvalidArgumentError(
        absl::StrCat(config.where(), ": `hidden_act`: expected silu, found ", activation));
  }
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    GANTRY_ASSIGN_OR_RETURN(const bool bias, config.BoolOr(key, false));
    if (bias)
      return absl::InvalidArgumentError(absl::StrCat(config.where(), ": `", key, "`: expected false, found true"));
  }

  AttentionSpec attention;
  GANTRY_ASSIGN_OR_RETURN(attention.query_heads, config.Int("num_attention_heads", 1, kHeadsMax));
  GANTRY_ASSIGN_OR_RETURN(attention.kv_heads, config.IntOr("num_key_value_heads", attention.query_heads, 1, kHeadsMax));
  const int head_dim = defaults.head_dim > 0 ? defaults.head_dim : spec->hidden / attention.query_heads;
  GANTRY_ASSIGN_OR_RETURN(attention.head_dim, config.IntOr("head_dim", head_dim, 1, kHeadDimMax));
  GANTRY_RETURN_IF_ERROR(CheckHeads(attention, config.where()));
  attention.qk_norm = defaults.qk_norm;
  attention.score_scale = ScoreScale(attention.head_dim);
  GANTRY_ASSIGN_OR_RETURN(attention.rope, ReadRope(config, attention.head_dim, defaults.rope, spec));

  // Qwen's configs name a window even where `use_sliding_window` turns it off.
  GANTRY_ASSIGN_OR_RETURN(const bool use_window, config.BoolOr("use_sliding_window", true));
  if (use_window) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t window,
                            config.IntOr("sliding_window", spec->max_context, 2, int64_t{1} << 40));
    spec->max_context = static_cast<int>(std::min<int64_t>(spec->max_context, window));
  }
  GANTRY_ASSIGN_OR_RETURN(spec->tied_head, config.BoolOr("tie_word_embeddings", false));
  return attention;
}

absl::StatusOr<int64_t> ReadLayerCount(const ConfigObject& config) {
  return config.Int("num_hidden_layers", 1, kLayersMax);
}

absl::StatusOr<RopeSpec> ReadGgufRope(const GgufKeys& keys, const std::string& architecture, int head_dim,
                                      double theta_default, TensorSource& tensors) {
  const std::string prefix = architecture + ".rope.";
  GANTRY_ASSIGN_OR_RETURN(const double theta, keys.NumberOr(prefix + "freq_base", theta_default, 1.0001, kThetaMax));
  GANTRY_ASSIGN_OR_RETURN(const int64_t rotary_dim, keys.IntOr(prefix + "dimension_count", head_dim, 0, kHeadDimMax));
  GANTRY_RETURN_IF_ERROR(
      CheckRotaryDim(absl::StrCat(keys.where(), ": `", prefix, "dimension_count`"), rotary_dim, head_dim));
  RopeSpec rope = PlainRope(static_cast<int>(rotary_dim), theta);
  GANTRY_ASSIGN_OR_RETURN(const std::string type, keys.StringOr(prefix + "scaling.type", "none"));
  GANTRY_ASSIGN_OR_RETURN(const double factor, keys.NumberOr(prefix + "scaling.factor", 1, 0, kFactorMax));
  if (type == "yarn" && factor > 0) {
    GANTRY_ASSIGN_OR_RETURN(const double context,
                            keys.NumberOr(architecture + ".context_length", 4096, 1, kContextMax));
    YarnStretch stretch{.theta = theta, .factor = factor};
    GANTRY_ASSIGN_OR_RETURN(stretch.original_context,
                            keys.NumberOr(prefix + "scaling.original_context_length", context, 1, kContextMax));
    GANTRY_ASSIGN_OR_RETURN(stretch.beta_fast, keys.NumberOr(prefix + "scaling.yarn_beta_fast", 32, 1e-6, kFactorMax));
    GANTRY_ASSIGN_OR_RETURN(stretch.beta_slow, keys.NumberOr(prefix + "scaling.yarn_beta_slow", 1, 1e-6, kFactorMax));
    GANTRY_ASSIGN_OR_RETURN(const double attention_factor,
                            keys.NumberOr(prefix + "scaling.attn_factor", 1, 0, kFactorMax));
    stretch.magnitude = attention_factor * YarnMagnitude(factor);
    StretchLikeYarn(stretch, &rope);
  } else if (type == "linear") {
    if (factor > 0) StretchLinearly(factor, &rope);  // 0 is what some converters write for "none"
  } else if (type != "none" && type != "yarn") {
    return absl::InvalidArgumentError(
        absl::StrCat(keys.where(), ": `", prefix, "scaling.type`: expected none, linear or yarn, found ", type));
  }
  // How converters keep llama3's stretch.
  if (tensors.Has("rope_freqs.weight")) {
    GANTRY_ASSIGN_OR_RETURN(const std::vector<float> divisors,
                            tensors.ReadVector("rope_freqs.weight", {rope.rotary_dim / 2}));
    for (size_t pair = 0; pair < divisors.size(); ++pair) {
      if (!(divisors[pair] > 0)) {
        return absl::InvalidArgumentError(absl::StrCat(keys.where(), ": tensor rope_freqs.weight: [", pair,
                                                       "]: expected a positive number, found ", divisors[pair]));
      }
      rope.frequencies[pair] /= divisors[pair];
    }
  }
  return rope;
}

absl::StatusOr<AttentionSpec> ReadGgufDecoder(const GgufKeys& keys, const std::string& architecture,
                                              double theta_default, TensorSource& tensors, ModelSpec* spec) {
  const std::string prefix = architecture + ".";
  GANTRY_ASSIGN_OR_RETURN(spec->hidden, keys.Int(prefix + "embedding_length", 1, kDimensionMax));
  GANTRY_ASSIGN_OR_RETURN(spec->vocab_rows, tensors.Rows("token_embd.weight"));
  GANTRY_ASSIGN_OR_RETURN(spec->max_context, keys.Int(prefix + "context_length", 2, kContextMax));
  GANTRY_ASSIGN_OR_RETURN(const double eps, keys.NumberOr(prefix + "attention.layer_norm_rms_epsilon", 1e-5, 0.0, 1.0));
  spec->rms_eps = static_cast<float>(eps);
  spec->tied_head = !tensors.Has("output.weight");

  AttentionSpec attention;
  GANTRY_ASSIGN_OR_RETURN(attention.query_heads, keys.Int(prefix + "attention.head_count", 1, kHeadsMax));
  // Some files list them layer by layer, 0 for layers without attention.
  GANTRY_ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads,
                          keys.IntOrInts(prefix + "attention.head_count_kv", 0, kHeadsMax));
  attention.kv_heads = attention.query_heads;
  if (!kv_heads.empty()) attention.kv_heads = static_cast<int>(*std::max_element(kv_heads.begin(), kv_heads.end()));
  for (const int64_t heads : kv_heads) {
    if (heads != 0 && heads != attention.kv_heads) {
      return absl::InvalidArgumentError(absl::StrCat(keys.where(), ": `", prefix,
                                                     "attention.head_count_kv`: expected one number of heads, found ",
                                                     heads, " and ", attention.kv_heads));
    }
  }
  if (attention.kv_heads == 0) attention.kv_heads = attention.query_heads;
  GANTRY_RETURN_IF_ERROR(CheckHeads(attention, keys.where()));
  GANTRY_ASSIGN_OR_RETURN(
      attention.head_dim,
      keys.IntOr(prefix + "attention.key_length", std::max(1, spec->hidden / attention.query_heads), 1, kHeadDimMax));
  // Keys and values of different lengths belong to other kinds of attention.
  GANTRY_RETURN_IF_ERROR(
      keys.IntOr(prefix + "attention.value_length", attention.head_dim, attention.head_dim, attention.head_dim)
          .status());
  attention.score_scale = ScoreScale(attention.head_dim);
  GANTRY_ASSIGN_OR_RETURN(attention.rope, ReadGgufRope(keys, architecture, attention.head_dim, theta_default, tensors));
  GANTRY_ASSIGN_OR_RETURN(const int64_t window, keys.IntOr(prefix + "attention.sliding_window", 0, 0, kContextMax));
  if (window > 0) spec->max_context = static_cast<int>(std::min<int64_t>(spec->max_context, window));
  return attention;
}

}  // namespace gantry::engine
