// The tables and how they came to be. Everything is STRICT; ids are BLOBs of 16 bytes, times microseconds since 1970
// UTC on billing's clock, money integers with the unit in the column's name. What must never change is guarded by
// triggers, and what must be provable carries a hash chain (billing/store/chain.h).
//
// A file migrations/NNNN_name.sql is one step forward; there are none back. A database at version v has the first v
// steps. Before each step of a database that holds something, a copy is made beside it: PATH.before-NNNN_name. A step
// that was published is never edited: the next one corrects it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace gantry::billing {

class Database;

struct Migration {
  const char* name;  // "0001_books"
  const char* sql;
};
// In order: the step at index v brings version v to v + 1.
absl::Span<const Migration> Migrations();

// Creates or migrates the database of `path`, each step in a transaction of its own. FAILED_PRECONDITION when the
// database is newer than `migrations`; what failed names its step and leaves the version before it. `copies`: whether
// to leave them.
absl::Status ApplySchema(Database& database, const std::string& path,
                         absl::Span<const Migration> migrations = Migrations(), bool copies = true);
// 0: empty.
absl::StatusOr<int64_t> SchemaVersion(Database& database);

}  // namespace gantry::billing
