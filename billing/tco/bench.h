// Throughput out of a benchmark of this machine.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "billing/tco/input.h"

namespace gantry::tco {

// From the output of `gantry-engine bench --json`: the row of `batch` sequences, 0 for any, that decodes fastest.
// Speeds are rounded to 10^-3 tokens a second; derate is left as it is. INVALID_ARGUMENT: not such an output, no such
// row.
absl::StatusOr<Throughput> ThroughputOfBench(absl::string_view json, int64_t batch, bool with_prefill);

}  // namespace gantry::tco
