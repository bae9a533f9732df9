// Named shapes: what the tests and benchmarks of this project are run on.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"

namespace gantry::make_model {

// config.json of a named shape, without an MTP layer. INVALID_ARGUMENT lists the names.
//   real-heads  the heads of the 122B release on a narrow model: for comparing numbers with other engines
//   bench-1b    a billion weights, a tenth of them active: for comparing speed
absl::StatusOr<nlohmann::ordered_json> ShapeConfig(const std::string& name);

}  // namespace gantry::make_model
