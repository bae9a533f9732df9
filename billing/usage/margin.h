// What a seller took for usage and what the same usage cost it, hop against hop. For sellers alone.
#pragma once

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

absl::StatusOr<v1::MarginReportResponse> MarginReport(Database& db, const v1::MarginReportRequest& request);

}  // namespace gantry::billing
