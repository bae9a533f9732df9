// Which books a database holds and how far they have come: the row that ties it to its command log and its backups.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "billing/store/command_log.h"
#include "billing/store/database.h"
#include "billing/store/schema.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct Lineage {
  Id16 books_id;
  BooksPosition position;
  bool logged = false;        // a command log holds everything since it began
  int64_t logged_schema = 0;  // the schema's version that it knows
};

// False when the database is older than the table.
absl::StatusOr<bool> HasLineage(Database& database);
absl::StatusOr<Lineage> ReadLineage(Database& database);

// One record of a command log applied in a transaction of its own; the schema's steps without copies. DATA_LOSS: the
// books are not in the state in which it was made.
absl::Status ApplyRecord(Database& database, const std::string& path, absl::Span<const Migration> migrations,
                         const LogRecord& record);

// Stands in the series of invoices: "" until a restore that may have lost numbers given to customers, then "R2" for the
// one that began epoch 2, so that no number is given twice.
std::string SeriesMark(Database& database);

// What one backup after the other, confirmed, covers; zero when there is none. `generation` 0: the newest, 1: the one
// before it.
struct CoveredBy {
  int64_t made_us = 0;
  BooksPosition position;
};
CoveredBy BackupBefore(Database& database, int generation);

}  // namespace gantry::billing
