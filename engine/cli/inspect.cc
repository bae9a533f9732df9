#include <cstdio>
#include <nlohmann/json.hpp>
#include <variant>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/cli/commands.h"
#include "engine/model/model.h"

namespace gantry::engine::cli {

using nlohmann::ordered_json;

absl::Status RunInspect(const CommonOptions& common, const InspectOptions& options) {
  GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, LoadModel(common.model));
  const ModelSpec& spec = model->spec;
  ordered_json layers = ordered_json::array();
  for (int i = 0; i < spec.total_layers(); ++i) {
    const LayerSpec& layer = spec.layer(i);
    ordered_json entry = {{"layer", i == spec.trunk_layers() ? ordered_json("mtp") : ordered_json(i)}};
    if (const auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
      entry["mixer"] = absl::StrCat("attention ", attention->query_heads, " q / ", attention->kv_heads, " kv heads x ",
                                    attention->head_dim, attention->output_gate ? ", output gate" : "", ", rotary ",
                                    attention->rope.rotary_dim);
    } else {
      const auto& net = std::get<GatedDeltaNetSpec>(layer.mixer);
      entry["mixer"] = absl::StrCat("gated delta net ", net.key_heads, " k / ", net.value_heads, " v heads x ",
                                    net.key_dim, "x", net.value_dim, ", conv ", net.conv_kernel);
    }
    if (const auto* dense = std::get_if<DenseSpec>(&layer.ffn)) {
      entry["ffn"] = absl::StrCat("dense ", dense->width);
    } else {
      const auto& moe = std::get<MixtureOfExpertsSpec>(layer.ffn);
      entry["ffn"] = absl::StrCat(moe.experts, " experts top-", moe.experts_per_token, " x ", moe.width,
                                  moe.shared_width > 0 ? absl::StrCat(" + shared ", moe.shared_width) : "");
    }
    layers.push_back(entry);
  }
  const ordered_json out = {{"model", model->path},
                            {"family", spec.family},
                            {"hidden", spec.hidden},
                            {"vocab_rows", spec.vocab_rows},
                            {"tied_head", spec.tied_head},
                            {"max_context", spec.max_context},
                            {"stop_ids", spec.stop_ids},
                            {"parameters", model->parameters},
                            {"weight_bytes", model->weight_bytes},
                            {"mtp", spec.mtp.has_value()},
                            {"layers", layers}};
  if (options.json) {
    std::printf("%s\n", out.dump(2).c_str());
    return absl::OkStatus();
  }
  std::printf("%s: %s, %.1f M parameters, %.1f MB\nhidden %d, vocabulary %d%s, context %d, MTP %s\n",
              model->path.c_str(), spec.family.c_str(), static_cast<double>(model->parameters) / 1e6,
              static_cast<double>(model->weight_bytes) / 1e6, spec.hidden, spec.vocab_rows,
              spec.tied_head ? " (tied head)" : "", spec.max_context, spec.mtp ? "yes" : "no");
  for (const ordered_json& layer : layers) {
    std::printf("  %-4s %-60s %s\n", layer["layer"].is_string() ? "mtp" : layer["layer"].dump().c_str(),
                layer["mixer"].get<std::string>().c_str(), layer["ffn"].get<std::string>().c_str());
  }
  return absl::OkStatus();
}

}  // namespace gantry::engine::cli
