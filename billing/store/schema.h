// The tables. Everything is STRICT; ids are BLOBs of 16 bytes, times microseconds since 1970 UTC on billing's clock,
// money integers with the unit in the column's name. What must never change is guarded by triggers, and what must be
// provable carries a hash chain (billing/store/chain.h).
#pragma once

#include "absl/status/status.h"

namespace gantry::billing {

class Database;

inline constexpr int kSchemaVersion = 1;

// Creates or migrates. FAILED_PRECONDITION when the database is newer than this program.
absl::Status ApplySchema(Database& database);

}  // namespace gantry::billing
