#include "engine/cli/json_input.h"

#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"

namespace gantry::engine::cli {
namespace {

using nlohmann::ordered_json;

constexpr size_t kInputBytesMax = 64 << 20;
constexpr int kJsonDepthMax = 64;

}  // namespace

absl::StatusOr<ordered_json> ReadJson(const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, kInputBytesMax));
  bool too_deep = false;
  const auto watch = [&](int depth, ordered_json::parse_event_t, ordered_json&) {
    too_deep = too_deep || depth > kJsonDepthMax;
    return !too_deep;
  };
  ordered_json root = ordered_json::parse(text, watch, /*allow_exceptions=*/false);
  if (root.is_discarded() || too_deep) return absl::InvalidArgumentError(absl::StrCat(path, ": not valid JSON"));
  return root;
}

absl::StatusOr<std::vector<TokenId>> ReadIds(const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(const ordered_json root, ReadJson(path));
  std::vector<TokenId> ids;
  if (!root.is_array()) return absl::InvalidArgumentError(absl::StrCat(path, ": expected a JSON array of token ids"));
  for (size_t i = 0; i < root.size(); ++i) {
    if (!root[i].is_number_integer() || root[i].get<int64_t>() < 0 || root[i].get<int64_t>() > INT32_MAX) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": [", i, "]: expected a token id, found ", root[i].dump().substr(0, 40)));
    }
    ids.push_back(root[i].get<TokenId>());
  }
  return ids;
}

}  // namespace gantry::engine::cli
