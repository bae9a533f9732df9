// Usage of parked parties (billing/parties/parking.h): acknowledged, durable as it came, and booked once its party is
// released, with the age it has by then. Nothing of it is lost, and nothing is booked on books that are wrong.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {

// Keeps a record of `party_no`. False: the same record is kept already with other content.
bool KeepAside(Database& db, const v1::UsageRecord& record, int64_t party_no, int64_t now_us);

// Books what was kept of parties that are no longer parked, oldest first. How many records there were; what cannot be
// booked any more stands among the refused records, like any other.
absl::StatusOr<int> BookAside(Database& db, int64_t now_us, int limit);

// Records that BookAside would book.
int64_t CountAside(Database& db);

}  // namespace gantry::billing
