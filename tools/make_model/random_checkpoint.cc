#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "tools/make_model/checkpoint.h"

namespace gantry::make_model {
namespace {

using nlohmann::ordered_json;

// silu(g) u of two independent standard normals has this second moment.
constexpr double kSwiGluVariance = 0.355;
// Log-decays as Mamba starts them: A in [1, 16], time steps in [0.001, 0.1].
constexpr double kDecayMax = 16, kStepMin = 0.001, kStepMax = 0.1;

uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Numbers by index, so that rows can be made in any order and by any thread.
class Stream {
 public:
  Stream(uint64_t seed, const std::string& name) : base_(Mix(seed)) {
    for (const char c : name) base_ = Mix(base_ ^ static_cast<unsigned char>(c));
  }
  // Variance 1: the sum of four uniform numbers, which is near enough to normal and four times as fast.
  float Normal(int64_t index) const {
    const uint64_t bits = Mix(base_ + static_cast<uint64_t>(index));
    const int sum = static_cast<int>(bits & 0xffff) + static_cast<int>(bits >> 16 & 0xffff) +
                    static_cast<int>(bits >> 32 & 0xffff) + static_cast<int>(bits >> 48);
    return (static_cast<float>(sum) - 131070.0f) * (1.7320508f / 65536.0f);
  }
  double Uniform(int64_t index) const {  // [0, 1)
    return static_cast<double>(Mix(base_ + static_cast<uint64_t>(index)) >> 11) * 0x1p-53;
  }

 private:
  uint64_t base_;
};

class Maker {
 public:
  Maker(const ordered_json& config, uint64_t seed) : seed_(seed) {
    checkpoint_.config = config;
    text_ = &checkpoint_.text_config();
  }

  absl::StatusOr<Checkpoint> Make() {
    // Typed reads of a person's JSON are where the library throws; nothing of it leaves this function.
    try {
      const std::string family = checkpoint_.config.at("model_type");
      hidden_ = Int("hidden_size");
      layers_ = Int("num_hidden_layers");
      residual_ = 1 / std::sqrt(2.0 * static_cast<double>(layers_));
      if (family == "llama" || family == "qwen3" || family == "mixtral" || family == "qwen3_moe") {
        MakeDecoder(family);
      } else if (family == "qwen3_5_moe" || family == "qwen3_5_moe_text") {
        MakeQwen35Moe();
      } else {
        return absl::InvalidArgumentError(
            absl::StrCat("model_type `", family, "`: expected llama, mixtral, qwen3, qwen3_moe, qwen3_5_moe"));
      }
    } catch (const nlohmann::json::exception& error) {
      return absl::InvalidArgumentError(absl::StrCat("config: ", error.what()));
    }
    return std::move(checkpoint_);
  }

 private:
  int64_t Int(const char* key) const { return text_->at(key).get<int64_t>(); }
  int64_t IntOr(const char* key, int64_t fallback) const {
    return text_->contains(key) && !text_->at(key).is_null() ? text_->at(key).get<int64_t>() : fallback;
  }
  bool BoolOr(const char* key, bool fallback) const { return text_->value(key, fallback); }

  // ---- tensors ----

  void Add(const std::string& name, std::vector<int64_t> shape, std::function<float(const Stream&, int64_t)> value) {
    SourceTensor tensor;
    tensor.shape = std::move(shape);
    const Stream stream(seed_, name);
    const int64_t columns = tensor.columns();
    tensor.read = [stream, columns, value = std::move(value)](int64_t row, float* out) {
      for (int64_t i = 0; i < columns; ++i) out[i] = value(stream, row * columns + i);
    };
    checkpoint_.tensors.emplace(name, std::move(tensor));
  }
  void Normal(const std::string& name, std::vector<int64_t> shape, double deviation) {
    SourceTensor tensor;
    tensor.shape = std::move(shape);
    const Stream stream(seed_, name);
    const int64_t columns = tensor.columns();
    const auto scale = static_cast<float>(deviation);
    // The common case, without a call for each element.
    tensor.read = [stream, columns, scale](int64_t row, float* out) {
      for (int64_t i = 0; i < columns; ++i) out[i] = scale * stream.Normal(row * columns + i);
    };
    checkpoint_.tensors.emplace(name, std::move(tensor));
  }
  // Keeps the variance of an input of `gain` times variance 1.
  void Linear(const std::string& name, std::vector<int64_t> shape, double gain = 1) {
    const double fan_in = static_cast<double>(shape.back());
    Normal(name, std::move(shape), gain / std::sqrt(fan_in));
  }
  void Norm(const std::string& name, int64_t size, double center) {
    Add(name, {size}, [center](const Stream& s, int64_t i) { return static_cast<float>(center) + 0.1f * s.Normal(i); });
  }

  // ---- layers ----

  void Attention(const std::string& prefix, bool gate, bool qk_norm, double norm_center) {
    const int64_t heads = Int("num_attention_heads"), kv = IntOr("num_key_value_heads", heads);
    const int64_t dim = IntOr("head_dim", hidden_ / heads);
    Linear(prefix + "q_proj.weight", {heads * dim * (gate ? 2 : 1), hidden_});
    Linear(prefix + "k_proj.weight", {kv * dim, hidden_});
    Linear(prefix + "v_proj.weight", {kv * dim, hidden_});
    // Gates of about a half take half of it away.
    Linear(prefix + "o_proj.weight", {hidden_, heads * dim}, residual_ * (gate ? 2 : 1));
    if (qk_norm) {
      Norm(prefix + "q_norm.weight", dim, norm_center);
      Norm(prefix + "k_norm.weight", dim, norm_center);
    }
  }

  void SwiGlu(const std::string& gate, const std::string& up, const std::string& down, int64_t width) {
    Linear(gate, {width, hidden_});
    Linear(up, {width, hidden_});
    Linear(down, {hidden_, width}, residual_ / std::sqrt(kSwiGluVariance));
  }
  void SwiGlu(const std::string& prefix, int64_t width) {
    SwiGlu(prefix + "gate_proj.weight", prefix + "up_proj.weight", prefix + "down_proj.weight", width);
  }

  void Ends(const std::string& trunk, double norm_center) {
    const int64_t vocab = Int("vocab_size");
    Normal(trunk + "embed_tokens.weight", {vocab, hidden_}, 1);
    Norm(trunk + "norm.weight", hidden_, norm_center);
    const bool tied = BoolOr("tie_word_embeddings", checkpoint_.config.value("tie_word_embeddings", false));
    // Logits of deviation 3: some tokens are likely, none is certain.
    if (!tied) Linear("lm_head.weight", {vocab, hidden_}, 3);
  }

  bool IsDense(const std::string& family, int64_t layer) const {
    if (family == "llama" || family == "qwen3") return true;
    if (family == "mixtral") return false;
    for (const auto& index : text_->value("mlp_only_layers", ordered_json::array())) {
      if (index.get<int64_t>() == layer) return true;
    }
    return (layer + 1) % IntOr("decoder_sparse_step", 1) != 0;
  }

  void MakeDecoder(const std::string& family) {
    Ends("model.", 1);
    for (int64_t i = 0; i < layers_; ++i) {
      const std::string prefix = absl::StrCat("model.layers.", i, ".");
      Norm(prefix + "input_layernorm.weight", hidden_, 1);
      Norm(prefix + "post_attention_layernorm.weight", hidden_, 1);
      Attention(prefix + "self_attn.", false, family == "qwen3" || family == "qwen3_moe", 1);
      if (IsDense(family, i)) {
        SwiGlu(prefix + "mlp.", Int("intermediate_size"));
      } else if (family == "mixtral") {
        const std::string moe = prefix + "block_sparse_moe.";
        const int64_t experts = Int("num_local_experts");
        Linear(moe + "gate.weight", {experts, hidden_}, 2);
        for (int64_t e = 0; e < experts; ++e) {
          const std::string expert = absl::StrCat(moe, "experts.", e, ".");
          SwiGlu(expert + "w1.weight", expert + "w3.weight", expert + "w2.weight", Int("intermediate_size"));
        }
      } else {
        const int64_t experts = IntOr("num_experts", IntOr("num_local_experts", 0));
        Linear(prefix + "mlp.gate.weight", {experts, hidden_}, 2);
        for (int64_t e = 0; e < experts; ++e) {
          SwiGlu(absl::StrCat(prefix, "mlp.experts.", e, "."), Int("moe_intermediate_size"));
        }
      }
    }
  }

  void DeltaNet(const std::string& prefix) {
    const int64_t key_heads = Int("linear_num_key_heads"), value_heads = Int("linear_num_value_heads");
    const int64_t key_dim = IntOr("linear_key_head_dim", 128), value_dim = IntOr("linear_value_head_dim", 128);
    const int64_t taps = IntOr("linear_conv_kernel_dim", 4);
    const int64_t value = value_heads * value_dim, channels = 2 * key_heads * key_dim + value;
    Linear(prefix + "in_proj_qkv.weight", {channels, hidden_});
    Linear(prefix + "in_proj_z.weight", {value, hidden_});
    Linear(prefix + "in_proj_b.weight", {value_heads, hidden_});
    Linear(prefix + "in_proj_a.weight", {value_heads, hidden_}, 0.25);
    Normal(prefix + "conv1d.weight", {channels, 1, taps}, 1 / std::sqrt(static_cast<double>(taps)));
    Add(prefix + "A_log", {value_heads},
        [](const Stream& s, int64_t i) { return static_cast<float>(std::log(1 + (kDecayMax - 1) * s.Uniform(i))); });
    Add(prefix + "dt_bias", {value_heads}, [](const Stream& s, int64_t i) {
      const double step = kStepMin * std::pow(kStepMax / kStepMin, s.Uniform(i));
      return static_cast<float>(std::log(std::expm1(step)));  // softplus of it is the step
    });
    Norm(prefix + "norm.weight", value_dim, 1);
    Linear(prefix + "out_proj.weight", {hidden_, value}, residual_ / std::sqrt(kSwiGluVariance));
  }

  void Experts(const std::string& prefix) {
    const int64_t experts = Int("num_experts"), width = Int("moe_intermediate_size");
    Linear(prefix + "gate.weight", {experts, hidden_}, 2);
    Linear(prefix + "experts.gate_up_proj", {experts, 2 * width, hidden_});
    Linear(prefix + "experts.down_proj", {experts, hidden_, width}, residual_ / std::sqrt(kSwiGluVariance));
    SwiGlu(prefix + "shared_expert.", Int("shared_expert_intermediate_size"));
    Linear(prefix + "shared_expert_gate.weight", {1, hidden_});
  }

  void Qwen35Layer(const std::string& prefix, bool attention) {
    Norm(prefix + "input_layernorm.weight", hidden_, 0);
    Norm(prefix + "post_attention_layernorm.weight", hidden_, 0);
    if (attention) {
      Attention(prefix + "self_attn.", BoolOr("attn_output_gate", true), true, 0);
    } else {
      DeltaNet(prefix + "linear_attn.");
    }
    Experts(prefix + "mlp.");
  }

  void MakeQwen35Moe() {
    Ends("model.", 0);
    const ordered_json types = text_->value("layer_types", ordered_json::array());
    const int64_t interval = IntOr("full_attention_interval", 4);
    for (int64_t i = 0; i < layers_; ++i) {
      const bool attention = types.empty() ? (i + 1) % interval == 0 : types.at(i) == "full_attention";
      Qwen35Layer(absl::StrCat("model.layers.", i, "."), attention);
    }
    if (IntOr("mtp_num_hidden_layers", 1) == 0) return;
    Norm("mtp.pre_fc_norm_embedding.weight", hidden_, 0);
    Norm("mtp.pre_fc_norm_hidden.weight", hidden_, 0);
    Linear("mtp.fc.weight", {hidden_, 2 * hidden_});
    Qwen35Layer("mtp.layers.0.", true);
    Norm("mtp.norm.weight", hidden_, 0);
  }

  const uint64_t seed_;
  Checkpoint checkpoint_;
  const ordered_json* text_ = nullptr;
  int64_t hidden_ = 0, layers_ = 0;
  double residual_ = 1;
};

}  // namespace

absl::StatusOr<Checkpoint> RandomCheckpoint(const ordered_json& config, uint64_t seed) {
  return Maker(config, seed).Make();
}

}  // namespace gantry::make_model
