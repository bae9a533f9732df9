// Proves the books. Reads everything, trusts nothing that is derived: sums are recomputed from rows, usage is rated
// again, chains are hashed again. Read only.
#pragma once

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

v1::AuditReport Audit(Database& db);

}  // namespace gantry::billing
