#include "billing/store/schema.h"

#include "absl/strings/str_cat.h"
#include "billing/store/database.h"
#include "engine/base/status_macros.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

constexpr int64_t kApplicationId = 0x474e5459;  // GNTY, set by the first migration

absl::Status Step(Database& database, const std::string& path, const Migration& migration, int64_t version,
                  bool copy_first) {
  if (copy_first) {
    const std::string copy = absl::StrCat(path, ".before-", migration.name);
    GANTRY_RETURN_IF_ERROR(database.BackupTo(copy));
    Log(LogLevel::kInfo, "migrating the database", {{"step", migration.name}, {"copy", copy}});
  }
  // A step may rebuild a table that others refer to; what they refer to is checked before it commits.
  database.Script("PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE");
  database.Script(migration.sql);
  database.Script(absl::StrCat("PRAGMA user_version = ", version + 1).c_str());
  {
    Rows rows = database.Query("PRAGMA foreign_key_check");
    if (rows.Next()) {
      const std::string table = rows.Text(0);
      database.Fail(absl::InternalError(absl::StrCat("a row of ", table, " would refer to nothing")));
    }
  }
  database.Script("COMMIT");
  absl::Status status = database.TakeError();
  if (!status.ok() && database.InTransaction()) database.Script("ROLLBACK");
  database.Script("PRAGMA foreign_keys = ON");
  return status.ok() ? database.TakeError() : status;
}

}  // namespace

absl::StatusOr<int64_t> SchemaVersion(Database& database) {
  int64_t version = 0;
  {
    Rows rows = database.Query("PRAGMA user_version");
    if (rows.Next()) version = rows.Int(0);
  }
  GANTRY_RETURN_IF_ERROR(database.TakeError());
  return version;
}

absl::Status ApplySchema(Database& database, const std::string& path, absl::Span<const Migration> migrations,
                         bool copies) {
  GANTRY_ASSIGN_OR_RETURN(int64_t version, SchemaVersion(database));
  const auto known = static_cast<int64_t>(migrations.size());
  const bool holds_something = version > 0;
  if (version > known) {
    return absl::FailedPreconditionError(absl::StrCat("the database has schema version ", version,
                                                      ", this program knows up to ", known,
                                                      "; install the newer gantry-billing that wrote it"));
  }
  if (version > 0) {
    Rows rows = database.Query("PRAGMA application_id");
    if (rows.Next() && rows.Int(0) != kApplicationId) {
      return absl::FailedPreconditionError(
          "the database is not one of this program, or was written by a development build before the first release; "
          "move it away and start with a new one");
    }
  }
  for (; version < known; ++version) {
    const Migration& migration = migrations[static_cast<size_t>(version)];
    absl::Status status = Step(database, path, migration, version, copies && holds_something);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("migration ", migration.name, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace gantry::billing
