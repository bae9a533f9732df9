// Roll-ups made anew from the events themselves: what an invoice must come to if nobody had kept sums.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "billing/usage/rollup.h"

namespace gantry::billing {

// What RollupOf gives for a buyer's period, in the same order, rated event by event. Reads every rating of the books.
absl::StatusOr<std::vector<RollupRow>> RecountPeriod(Database& db, int64_t buyer_no, int64_t period);

}  // namespace gantry::billing
