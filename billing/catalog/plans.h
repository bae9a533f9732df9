// Prices: plans and their immutable versions. A request pins the version that was current when it was admitted; usage
// is rated with that version however late it comes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/rating/rating.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

// INVALID_ARGUMENT: a line is malformed or a class has no "*" line. FAILED_PRECONDITION: earlier versions of the plan
// have another currency.
absl::StatusOr<v1::PlanVersion> PublishPlanVersion(Database& db, const v1::PublishPlanVersionRequest& request,
                                                   int64_t now_us);
absl::StatusOr<v1::ListPlanVersionsResponse> ListPlanVersions(Database& db, const std::string& plan);

// NOT_FOUND: no such version.
absl::StatusOr<std::vector<PriceLine>> LinesOf(Database& db, const Id16& plan_version_id);

// The prices that hold now for the tenants of `plan`; empty: of all plans.
absl::StatusOr<std::vector<v1::TenantPrices>> CurrentPrices(Database& db, const std::string& plan, int64_t now_us);

// SHA-256 over the lines in order.
std::string HashOfLines(const std::string& plan, const std::string& currency,
                        const google::protobuf::RepeatedPtrField<v1::PriceLine>& lines);

}  // namespace gantry::billing
