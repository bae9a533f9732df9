// Corrections: a row with the difference, never a change of what is there.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

// Books the difference between what a request has been charged for and the counts that are right, at the versions that
// it was rated with, on the first invoice that is still open. What it gives back goes to whoever had paid: the house
// first, as far as it had, then the customer, as the kind of credit that was used (billing/ledger/lot_use.h). What it
// charges is the house's at the tenant's hop: nobody has set it aside. NOT_FOUND: no such request. FAILED_PRECONDITION:
// it was never reported by a gateway, or nothing differs. OUT_OF_RANGE: tiers of a closed period would have to be
// counted again.
absl::StatusOr<v1::UsageRow> CorrectUsage(Database& db, const v1::CorrectUsageRequest& request, int64_t now_us);

}  // namespace gantry::billing
