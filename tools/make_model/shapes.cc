#include "tools/make_model/shapes.h"

#include "absl/strings/str_cat.h"

namespace gantry::make_model {
namespace {

constexpr char kRealHeads[] = R"({
  "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text",
  "vocab_size": 4096, "hidden_size": 512, "num_hidden_layers": 4, "full_attention_interval": 4,
  "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 256, "attn_output_gate": true,
  "linear_num_key_heads": 16, "linear_num_value_heads": 64,
  "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
  "num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
  "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25,
                      "mrope_section": [11, 11, 10], "mrope_interleaved": true},
  "max_position_embeddings": 32768, "rms_norm_eps": 1e-06, "hidden_act": "silu",
  "tie_word_embeddings": false, "mtp_num_hidden_layers": 0
})";

constexpr char kBench1b[] = R"({
  "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text",
  "vocab_size": 49152, "hidden_size": 1024, "num_hidden_layers": 16, "full_attention_interval": 4,
  "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "attn_output_gate": true,
  "linear_num_key_heads": 8, "linear_num_value_heads": 16,
  "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
  "num_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256,
  "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0, "partial_rotary_factor": 0.25,
                      "mrope_section": [11, 11, 10], "mrope_interleaved": true},
  "max_position_embeddings": 8192, "rms_norm_eps": 1e-06, "hidden_act": "silu",
  "tie_word_embeddings": false, "mtp_num_hidden_layers": 0
})";

}  // namespace

absl::StatusOr<nlohmann::ordered_json> ShapeConfig(const std::string& name) {
  if (name == "real-heads") return nlohmann::ordered_json::parse(kRealHeads);
  if (name == "bench-1b") return nlohmann::ordered_json::parse(kBench1b);
  return absl::InvalidArgumentError(absl::StrCat("shape `", name, "`: expected real-heads or bench-1b"));
}

}  // namespace gantry::make_model
