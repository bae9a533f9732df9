#include "engine/format/internal/parse_json.h"

#include <set>

#include "absl/strings/str_cat.h"

namespace gantry::engine {

using nlohmann::json;

absl::StatusOr<json> ParseJsonObject(absl::string_view text, const std::string& where, int depth_max) {
  const auto error = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
  };
  std::set<std::string> keys;
  std::string duplicate;
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    // `depth` counts the containers around this event: the outermost object starts at 0, its keys stand at 1.
    const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    if (opens && depth >= depth_max) too_deep = true;
    if (event == json::parse_event_t::key && depth == 1 && duplicate.empty() &&
        !keys.insert(parsed.get<std::string>()).second) {
      duplicate = parsed.get<std::string>();
    }
    return !too_deep;  // refused values are skipped, not built
  };
  json root;
  try {
    root = json::parse(text.begin(), text.end(), watch);
  } catch (const json::parse_error& e) {
    // The library quotes the offending token whole, which may be the whole file.
    return error(absl::StrCat("expected a JSON object, found an error at byte ", e.byte));
  } catch (const json::exception&) {
    return error("expected a JSON object, found a number out of range");
  }
  if (too_deep) return error(absl::StrCat("expected a JSON object nested at most ", depth_max, " levels, found more"));
  if (!root.is_object()) return error(absl::StrCat("expected a JSON object, found ", root.type_name()));
  if (!duplicate.empty()) return error(absl::StrCat("expected each key once, found `", duplicate, "` twice"));
  return root;
}

}  // namespace gantry::engine
