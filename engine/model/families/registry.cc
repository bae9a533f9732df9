#include "engine/model/families/registry.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace gantry::engine {
namespace {

const std::vector<Family>& Families() {
  static const auto* families = new std::vector<Family>{
      {"qwen3_5_moe", {"qwen3_5_moe", "qwen3_5_moe_text"}, LoadQwen35Moe},
  };
  return *families;
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
  return absl::InvalidArgumentError(
      absl::StrCat("model_type `", model_type, "` is not supported; supported are: ", absl::StrJoin(supported, ", ")));
}

}  // namespace gantry::engine
