// A plan as its owner writes it down: a TOML file that `gantry plan publish --file` sends.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::cli {

// INVALID_ARGUMENT names the file, the line and what was expected; unknown keys are errors.
absl::StatusOr<v1::PublishPlanVersionRequest> ParsePlanFile(absl::string_view toml, const std::string& file_name);

// A complete example with comments, which ParsePlanFile takes.
std::string ExamplePlanFile();

// "2026-12-01" or "2026-12-01T08:00:00Z" -> microseconds, UTC.
absl::StatusOr<int64_t> ParseTimeUtc(absl::string_view text);

// "12.5" percent -> ppm, below zero as well.
absl::StatusOr<int64_t> ParsePercentPpm(absl::string_view text);

}  // namespace gantry::cli
