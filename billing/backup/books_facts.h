// What a backup says of the books in it, read from the books.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/backup/backup_file.h"
#include "billing/store/database.h"

namespace gantry::billing {

// Every table numbered by an integer key `seq`, by name; the head of those that have a `hash`.
absl::StatusOr<std::vector<BackupTable>> NumberedTables(Database& database);

// The small files beside the database that billing needs to be itself again: all but the database's own, as paths
// relative to `data_dir`, sorted. FAILED_PRECONDITION: more than 1,000 of them or one of more than 1 MiB, which cannot
// be meant.
absl::StatusOr<std::vector<std::string>> FilesBeside(const std::string& data_dir);

// The copies of the database that backups are made from lie in the data dir under names that begin so.
inline constexpr char kCopyPrefix[] = "backup-copy-";

}  // namespace gantry::billing
