// Usage as its tenant sees it: rows, newest first, and totals per model of the whole range.
#pragma once

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

absl::StatusOr<v1::QueryUsageResponse> QueryUsage(Database& db, const v1::QueryUsageRequest& request, int64_t now_us);

}  // namespace gantry::billing
