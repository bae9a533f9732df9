// JSON files that commands read: bounded, and refused with the file's name and what is wrong with it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/token_id.h"

namespace gantry::engine::cli {

absl::StatusOr<nlohmann::ordered_json> ReadJson(const std::string& path);

// An array of token ids.
absl::StatusOr<std::vector<TokenId>> ReadIds(const std::string& path);

}  // namespace gantry::engine::cli
