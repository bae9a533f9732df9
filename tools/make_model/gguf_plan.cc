#include "tools/make_model/gguf_plan.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/rope.h"
#include "tools/make_model/gguf_types.h"

namespace gantry::make_model {
namespace {

using nlohmann::ordered_json;

// ---- conversions: a tensor read through a change ----

SourceTensor MapValues(SourceTensor in, float (*change)(float)) {
  SourceTensor out;
  out.shape = in.shape;
  out.read = [in = std::move(in), change](int64_t row, float* values) {
    in.read(row, values);
    for (int64_t i = 0; i < in.columns(); ++i) values[i] = change(values[i]);
  };
  return out;
}

SourceTensor MapRows(SourceTensor in, std::vector<int64_t> shape, std::function<int64_t(int64_t)> source_row) {
  SourceTensor out;
  out.shape = std::move(shape);
  out.read = [in = std::move(in), source_row = std::move(source_row)](int64_t row, float* values) {
    in.read(source_row(row), values);
  };
  return out;
}

SourceTensor MapColumns(SourceTensor in, const std::function<int64_t(int64_t)>& source_column) {
  std::vector<int64_t> from(in.columns());
  for (int64_t i = 0; i < in.columns(); ++i) from[i] = source_column(i);
  SourceTensor out;
  out.shape = in.shape;
  out.read = [in = std::move(in), from = std::move(from)](int64_t row, float* values) {
    std::vector<float> source(from.size());
    in.read(row, source.data());
    for (size_t i = 0; i < from.size(); ++i) values[i] = source[from[i]];
  };
  return out;
}

SourceTensor Reshape(SourceTensor in, std::vector<int64_t> shape) {
  in.shape = std::move(shape);
  return in;
}

// [rows, columns] each -> [count, rows, columns]
SourceTensor Stack(std::vector<SourceTensor> parts) {
  SourceTensor out;
  const int64_t rows = parts.front().rows();
  out.shape = {static_cast<int64_t>(parts.size()), rows, parts.front().columns()};
  out.read = [parts = std::move(parts), rows](int64_t row, float* values) {
    parts[row / rows].read(row % rows, values);
  };
  return out;
}

class Planner {
 public:
  explicit Planner(const Checkpoint& checkpoint) : checkpoint_(checkpoint), text_(checkpoint.text_config()) {}

  absl::StatusOr<GgufPlan> Plan(const std::string& type) {
    // A config of a person's making, as in random_checkpoint.cc.
    try {
      const std::string family = checkpoint_.config.at("model_type");
      if (family == "llama" || family == "mixtral") {
        architecture_ = "llama";
      } else if (family == "qwen3") {
        architecture_ = "qwen3";
      } else if (family == "qwen3_moe") {
        architecture_ = "qwen3moe";
      } else if (family == "qwen3_5_moe" || family == "qwen3_5_moe_text") {
        architecture_ = "qwen35moe";
      } else {
        return absl::InvalidArgumentError(
            absl::StrCat("model_type `", family, "`: expected llama, mixtral, qwen3, qwen3_moe, qwen3_5_moe"));
      }
      if (architecture_ == "qwen35moe") {
        PlanQwen35Moe();
      } else {
        PlanDecoder(family);
      }
    } catch (const nlohmann::json::exception& error) {
      return absl::InvalidArgumentError(absl::StrCat("config: ", error.what()));
    }
    GANTRY_RETURN_IF_ERROR(status_);
    GANTRY_RETURN_IF_ERROR(ChooseTypes(type, &plan_));
    return std::move(plan_);
  }

 private:
  int64_t Int(const char* key) const { return text_.at(key).get<int64_t>(); }
  int64_t IntOr(const char* key, int64_t fallback) const {
    return text_.contains(key) && !text_.at(key).is_null() ? text_.at(key).get<int64_t>() : fallback;
  }
  // `rope_parameters`, `rope_scaling` or the flat keys.
  double RopeNumber(const char* key, double fallback) const {
    for (const char* group : {"rope_parameters", "rope_scaling"}) {
      if (text_.contains(group) && text_[group].is_object() && text_[group].contains(key) &&
          text_[group][key].is_number()) {
        return text_[group][key].get<double>();
      }
    }
    return text_.contains(key) && text_[key].is_number() ? text_[key].get<double>() : fallback;
  }
  std::string RopeType() const {
    for (const char* group : {"rope_parameters", "rope_scaling"}) {
      if (!text_.contains(group) || !text_[group].is_object()) continue;
      return text_[group].value("rope_type", text_[group].value("type", "default"));
    }
    return "default";
  }

  void Key(const std::string& name, GgufValue value) { plan_.keys.emplace_back(name, std::move(value)); }
  void SizeKey(const char* name, int64_t value) {
    Key(absl::StrCat(architecture_, ".", name), static_cast<uint32_t>(value));
  }
  void NumberKey(const char* name, double value) {
    Key(absl::StrCat(architecture_, ".", name), static_cast<float>(value));
  }

  // The tensor, or an error kept for the end.
  SourceTensor Take(const std::string& name) {
    const auto found = checkpoint_.tensors.find(name);
    if (found != checkpoint_.tensors.end()) return found->second;
    status_.Update(absl::NotFoundError(absl::StrCat("tensor ", name, ": expected by the config, found none")));
    SourceTensor nothing;
    nothing.shape = {1, 1};
    nothing.read = [](int64_t, float* out) { *out = 0; };
    return nothing;
  }
  bool Has(const std::string& name) const { return checkpoint_.tensors.contains(name); }
  void Put(const std::string& name, SourceTensor source) { plan_.tensors.push_back({name, std::move(source)}); }
  void Move(const std::string& from, const std::string& to) { Put(to, Take(from)); }

  SourceTensor TakeNorm(const std::string& name) {
    SourceTensor norm = Take(name);
    return architecture_ == "qwen35moe" ? MapValues(norm, [](float w) { return w + 1; }) : norm;
  }

  // ---- what families share ----

  void PlanCommon(int64_t blocks) {
    const int64_t heads = Int("num_attention_heads");
    head_dim_ = IntOr("head_dim", Int("hidden_size") / heads);
    Key("general.architecture", architecture_);
    Key("general.name", std::string("made by make_model"));
    SizeKey("block_count", blocks);
    SizeKey("context_length", IntOr("max_position_embeddings", 4096));
    SizeKey("embedding_length", Int("hidden_size"));
    SizeKey("attention.head_count", heads);
    SizeKey("attention.head_count_kv", IntOr("num_key_value_heads", heads));
    SizeKey("attention.key_length", head_dim_);
    SizeKey("attention.value_length", head_dim_);
    NumberKey("attention.layer_norm_rms_epsilon", text_.value("rms_norm_eps", 1e-6));
    const double theta = RopeNumber("rope_theta", 10000), fraction = RopeNumber("partial_rotary_factor", 1);
    const auto rotary_dim = static_cast<int>(static_cast<double>(head_dim_) * fraction);
    SizeKey("rope.dimension_count", rotary_dim);
    NumberKey("rope.freq_base", theta);
    PlanRopeStretch(rotary_dim, theta);
  }

  void PlanRopeStretch(int rotary_dim, double theta) {
    const std::string type = RopeType();
    const double original = RopeNumber("original_max_position_embeddings", 8192), factor = RopeNumber("factor", 1);
    if (type == "llama3") {
      const engine::RopeSpec plain = engine::PlainRope(rotary_dim, theta);
      engine::RopeSpec stretched = plain;
      engine::StretchLikeLlama3({factor, RopeNumber("low_freq_factor", 1), RopeNumber("high_freq_factor", 4), original},
                                &stretched);
      std::vector<float> divisors;
      for (size_t i = 0; i < plain.frequencies.size(); ++i) {
        divisors.push_back(static_cast<float>(plain.frequencies[i] / stretched.frequencies[i]));
      }
      SourceTensor tensor;
      tensor.shape = {static_cast<int64_t>(divisors.size())};
      tensor.read = [divisors](int64_t, float* out) { std::copy(divisors.begin(), divisors.end(), out); };
      Put("rope_freqs.weight", tensor);
    } else if (type == "yarn" || type == "linear") {
      Key(architecture_ + ".rope.scaling.type", type);
      NumberKey("rope.scaling.factor", factor);
      if (type == "yarn") SizeKey("rope.scaling.original_context_length", static_cast<int64_t>(original));
    }
  }

  void PlanEnds(const std::string& trunk) {
    Move(trunk + "embed_tokens.weight", "token_embd.weight");
    Put("output_norm.weight", TakeNorm(trunk + "norm.weight"));
    const bool tied = text_.value("tie_word_embeddings", checkpoint_.config.value("tie_word_embeddings", false));
    if (!tied) Move("lm_head.weight", "output.weight");
  }

  void PlanAttention(const std::string& from, const std::string& to) {
    SourceTensor q = Take(from + "q_proj.weight"), k = Take(from + "k_proj.weight");
    if (architecture_ == "llama") {
      // Within each head, the partners of a rotated pair become neighbours.
      const int64_t dim = head_dim_;
      const auto source_row = [dim](int64_t row) {
        const int64_t head = row / dim, i = row % dim;
        return head * dim + i / 2 + (i % 2 == 0 ? 0 : dim / 2);
      };
      q = MapRows(q, q.shape, source_row);
      k = MapRows(k, k.shape, source_row);
    }
    Put(to + "attn_q.weight", q);
    Put(to + "attn_k.weight", k);
    Move(from + "v_proj.weight", to + "attn_v.weight");
    Move(from + "o_proj.weight", to + "attn_output.weight");
    if (architecture_ != "llama") {
      Put(to + "attn_q_norm.weight", TakeNorm(from + "q_norm.weight"));
      Put(to + "attn_k_norm.weight", TakeNorm(from + "k_norm.weight"));
    }
  }

  void PlanExpertStack(const std::string& prefix, const std::string& part, int64_t experts, const std::string& to) {
    std::vector<SourceTensor> parts;
    for (int64_t e = 0; e < experts; ++e)
      parts.push_back(Take(absl::StrCat(prefix, "experts.", e, ".", part, ".weight")));
    Put(to, Stack(std::move(parts)));
  }

  // ---- llama, mixtral, qwen3, qwen3_moe ----

  void PlanDecoder(const std::string& family) {
    const int64_t layers = Int("num_hidden_layers");
    PlanCommon(layers);
    if (architecture_ == "llama") SizeKey("vocab_size", Int("vocab_size"));
    if (text_.contains("intermediate_size")) SizeKey("feed_forward_length", Int("intermediate_size"));
    const bool mixtral = family == "mixtral", mixture = mixtral || family == "qwen3_moe";
    const int64_t experts = mixture ? IntOr("num_experts", IntOr("num_local_experts", 0)) : 0;
    if (mixture) {
      SizeKey("expert_count", experts);
      SizeKey("expert_used_count", Int("num_experts_per_tok"));
      if (!mixtral) SizeKey("expert_feed_forward_length", Int("moe_intermediate_size"));
    }
    PlanEnds("model.");
    for (int64_t i = 0; i < layers; ++i) {
      const std::string from = absl::StrCat("model.layers.", i, "."), to = absl::StrCat("blk.", i, ".");
      Move(from + "input_layernorm.weight", to + "attn_norm.weight");
      PlanAttention(from + "self_attn.", to);
      Move(from + "post_attention_layernorm.weight", to + "ffn_norm.weight");
      if (mixture) {
        const std::string moe = from + (mixtral ? "block_sparse_moe." : "mlp.");
        Move(moe + "gate.weight", to + "ffn_gate_inp.weight");
        PlanExpertStack(moe, mixtral ? "w1" : "gate_proj", experts, to + "ffn_gate_exps.weight");
        PlanExpertStack(moe, mixtral ? "w3" : "up_proj", experts, to + "ffn_up_exps.weight");
        PlanExpertStack(moe, mixtral ? "w2" : "down_proj", experts, to + "ffn_down_exps.weight");
      } else {
        for (const char* part : {"gate", "up", "down"}) {
          Move(absl::StrCat(from, "mlp.", part, "_proj.weight"), absl::StrCat(to, "ffn_", part, ".weight"));
        }
      }
    }
  }

  // ---- qwen3_5_moe ----

  void PlanDeltaNet(const std::string& from, const std::string& to) {
    const int64_t key_heads = Int("linear_num_key_heads"), value_heads = Int("linear_num_value_heads");
    const int64_t key_dim = IntOr("linear_key_head_dim", 128), value_dim = IntOr("linear_value_head_dim", 128);
    const int64_t each = value_heads / key_heads, keys = 2 * key_heads * key_dim;
    // Value heads: grouped by key head in the source, dealt out to the key heads in turn in GGUF.
    const auto source_head = [=](int64_t head) { return head % key_heads * each + head / key_heads; };
    const auto source_value = [=](int64_t i) { return source_head(i / value_dim) * value_dim + i % value_dim; };
    const auto source_channel = [=](int64_t i) { return i < keys ? i : keys + source_value(i - keys); };
    const auto rows = [](const SourceTensor& in, const std::function<int64_t(int64_t)>& map) {
      return MapRows(in, in.shape, map);
    };
    Put(to + "attn_qkv.weight", rows(Take(from + "in_proj_qkv.weight"), source_channel));
    Put(to + "attn_gate.weight", rows(Take(from + "in_proj_z.weight"), source_value));
    Put(to + "ssm_beta.weight", rows(Take(from + "in_proj_b.weight"), source_head));
    Put(to + "ssm_alpha.weight", rows(Take(from + "in_proj_a.weight"), source_head));
    const SourceTensor conv = Take(from + "conv1d.weight");
    Put(to + "ssm_conv1d.weight", Reshape(rows(conv, source_channel), {conv.shape.front(), conv.columns()}));
    Put(to + "ssm_a", MapColumns(MapValues(Take(from + "A_log"), [](float a) { return -std::exp(a); }), source_head));
    Put(to + "ssm_dt.bias", MapColumns(Take(from + "dt_bias"), source_head));
    Move(from + "norm.weight", to + "ssm_norm.weight");
    Put(to + "ssm_out.weight", MapColumns(Take(from + "out_proj.weight"), source_value));
  }

  void PlanSharedMoe(const std::string& from, const std::string& to) {
    const int64_t experts = Int("num_experts"), width = Int("moe_intermediate_size"), hidden = Int("hidden_size");
    Move(from + "gate.weight", to + "ffn_gate_inp.weight");
    if (Has(from + "experts.gate_up_proj")) {
      const SourceTensor both = Take(from + "experts.gate_up_proj");
      const std::vector<int64_t> shape = {experts, width, hidden};
      const auto half = [width](int64_t offset) {
        return [width, offset](int64_t row) { return row / width * 2 * width + offset + row % width; };
      };
      Put(to + "ffn_gate_exps.weight", MapRows(both, shape, half(0)));
      Put(to + "ffn_up_exps.weight", MapRows(both, shape, half(width)));
      Move(from + "experts.down_proj", to + "ffn_down_exps.weight");
    } else {
      PlanExpertStack(from, "gate_proj", experts, to + "ffn_gate_exps.weight");
      PlanExpertStack(from, "up_proj", experts, to + "ffn_up_exps.weight");
      PlanExpertStack(from, "down_proj", experts, to + "ffn_down_exps.weight");
    }
    for (const char* part : {"gate", "up", "down"}) {
      Move(absl::StrCat(from, "shared_expert.", part, "_proj.weight"), absl::StrCat(to, "ffn_", part, "_shexp.weight"));
    }
    Put(to + "ffn_gate_inp_shexp.weight", Reshape(Take(from + "shared_expert_gate.weight"), {hidden}));
  }

  void PlanQwen35Layer(const std::string& from, const std::string& to, bool attention) {
    Put(to + "attn_norm.weight", TakeNorm(from + "input_layernorm.weight"));
    Put(to + "post_attention_norm.weight", TakeNorm(from + "post_attention_layernorm.weight"));
    if (attention) {
      PlanAttention(from + "self_attn.", to);
    } else {
      PlanDeltaNet(from + "linear_attn.", to);
    }
    PlanSharedMoe(from + "mlp.", to);
  }

  void PlanQwen35Moe() {
    const int64_t layers = Int("num_hidden_layers");
    const bool mtp = Has("mtp.fc.weight");
    PlanCommon(layers + (mtp ? 1 : 0));
    SizeKey("expert_count", Int("num_experts"));
    SizeKey("expert_used_count", Int("num_experts_per_tok"));
    SizeKey("expert_feed_forward_length", Int("moe_intermediate_size"));
    SizeKey("expert_shared_feed_forward_length", Int("shared_expert_intermediate_size"));
    const int64_t value_heads = Int("linear_num_value_heads");
    SizeKey("ssm.conv_kernel", IntOr("linear_conv_kernel_dim", 4));
    SizeKey("ssm.state_size", IntOr("linear_key_head_dim", 128));
    SizeKey("ssm.group_count", Int("linear_num_key_heads"));
    SizeKey("ssm.time_step_rank", value_heads);
    SizeKey("ssm.inner_size", value_heads * IntOr("linear_value_head_dim", 128));
    const int64_t interval = IntOr("full_attention_interval", 4);
    SizeKey("full_attention_interval", interval);
    std::vector<int32_t> sections = {11, 11, 10};
    if (text_.contains("rope_parameters") && text_["rope_parameters"].contains("mrope_section")) {
      sections = text_["rope_parameters"]["mrope_section"].get<std::vector<int32_t>>();
    }
    sections.resize(4);
    Key("qwen35moe.rope.dimension_sections", sections);
    if (mtp) SizeKey("nextn_predict_layers", 1);

    const std::string trunk = Has("model.language_model.embed_tokens.weight") ? "model.language_model." : "model.";
    PlanEnds(trunk);
    const ordered_json types = text_.value("layer_types", ordered_json::array());
    for (int64_t i = 0; i < layers; ++i) {
      const bool attention = types.empty() ? (i + 1) % interval == 0 : types.at(i) == "full_attention";
      if (attention != ((i + 1) % interval == 0)) {
        status_.Update(absl::InvalidArgumentError(absl::StrCat(
            "config: `layer_types`: expected full attention in every layer ", interval, ", found otherwise in ", i)));
      }
      PlanQwen35Layer(absl::StrCat(trunk, "layers.", i, "."), absl::StrCat("blk.", i, "."), attention);
    }
    if (!mtp) return;
    const std::string to = absl::StrCat("blk.", layers, ".");
    PlanQwen35Layer("mtp.layers.0.", to, true);
    Move("mtp.fc.weight", to + "nextn.eh_proj.weight");
    Put(to + "nextn.enorm.weight", TakeNorm("mtp.pre_fc_norm_embedding.weight"));
    Put(to + "nextn.hnorm.weight", TakeNorm("mtp.pre_fc_norm_hidden.weight"));
    Put(to + "nextn.shared_head_norm.weight", TakeNorm("mtp.norm.weight"));
  }

  const Checkpoint& checkpoint_;
  const ordered_json& text_;
  std::string architecture_;
  int64_t head_dim_ = 0;
  GgufPlan plan_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<GgufPlan> PlanGguf(const Checkpoint& checkpoint, const std::string& type) {
  return Planner(checkpoint).Plan(type);
}

}  // namespace gantry::make_model
