// Which type each tensor of a GGUF file gets.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "engine/base/numeric.h"
#include "tools/make_model/gguf_plan.h"

namespace gantry::make_model {

// Fills in GgufTensor::type of every tensor and the key `general.file_type`.
absl::Status ChooseTypes(const std::string& type, GgufPlan* plan);

}  // namespace gantry::make_model
