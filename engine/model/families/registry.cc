#include "engine/model/families/registry.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace gantry::engine {
namespace {

const std::vector<Family>& Families() {
  static const auto* families = new std::vector<Family>{
      {"llama", {"llama"}, LoadLlama, "llama", LoadGgufLlama},
      {"mixtral", {"mixtral"}, LoadMixtral, nullptr, nullptr},
      {"qwen3", {"qwen3"}, LoadQwen3, "qwen3", LoadGgufQwen3},
      {"qwen3_moe", {"qwen3_moe"}, LoadQwen3Moe, "qwen3moe", LoadGgufQwen3Moe},
      {"qwen3_5_moe", {"qwen3_5_moe", "qwen3_5_moe_text"}, LoadQwen35Moe, "qwen35moe", LoadGgufQwen35Moe},
  };
  return *families;
}

absl::Status Unsupported(const char* what, const std::string& found, const std::vector<std::string>& supported) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, " `", found, "` is not supported; supported are: ", absl::StrJoin(supported, ", ")));
}

}  // namespace

absl::StatusOr<const Family*> FindFamily(const std::string& model_type) {
  std::vector<std::string> supported;
  for (const Family& family : Families()) {
    if (std::find(family.model_types.begin(), family.model_types.end(), model_type) != family.model_types.end()) {
      return &family;
    }
    supported.insert(supported.end(), family.model_types.begin(), family.model_types.end());
  }
  return Unsupported("model_type", model_type, supported);
}

absl::StatusOr<const Family*> FindGgufFamily(const std::string& architecture) {
  std::vector<std::string> supported;
  for (const Family& family : Families()) {
    if (family.architecture == nullptr) continue;
    if (architecture == family.architecture) return &family;
    supported.emplace_back(family.architecture);
  }
  return Unsupported("general.architecture", architecture, supported);
}

}  // namespace gantry::engine
