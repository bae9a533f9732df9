// The one way this folder turns outside bytes into a JSON object. Costs a compile of nlohmann's header: for .cc files
// of this folder only.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry::engine {

// `text` must be one JSON object, nested at most `depth_max` levels (the object itself is the first: deeper values
// would cost stack when they are copied or printed), no key of the outermost object twice (the parser would keep one of
// them silently). INVALID_ARGUMENT starts with `where`.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, const std::string& where, int depth_max);

}  // namespace gantry::engine
