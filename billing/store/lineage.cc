#include "billing/store/lineage.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "billing/store/changes.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

absl::StatusOr<bool> HasLineage(Database& database) {
  bool has = false;
  {
    Rows rows = database.Query("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'lineage'");
    has = rows.Next();
  }
  GANTRY_RETURN_IF_ERROR(database.TakeError());
  return has;
}

absl::StatusOr<Lineage> ReadLineage(Database& database) {
  Lineage lineage;
  bool found = false;
  {
    Rows rows = database.Query("SELECT books_id, epoch, sequence, logged, logged_schema FROM lineage");
    if (rows.Next()) {
      found = true;
      lineage.books_id = rows.Id(0);
      lineage.position = {static_cast<uint32_t>(rows.Int(1)), rows.Int(2)};
      lineage.logged = rows.Int(3) != 0;
      lineage.logged_schema = rows.Int(4);
    }
  }
  GANTRY_RETURN_IF_ERROR(database.TakeError());
  if (!found) return absl::DataLossError("the books do not say which they are: table lineage is empty");
  return lineage;
}

absl::Status ApplyRecord(Database& database, const std::string& path, absl::Span<const Migration> migrations,
                         const LogRecord& record) {
  const auto named = [&](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("record ", record.position.sequence, " of epoch ",
                                                    record.position.epoch, ": ", status.message()));
  };
  if (record.type == LogRecord::kSchema) {
    size_t version = 0;
    if (!absl::SimpleAtoi(record.body, &version) || version > migrations.size()) {
      return named(absl::FailedPreconditionError(absl::StrCat("it needs schema version ", record.body,
                                                              ", this program knows up to ", migrations.size(),
                                                              "; install the newer gantry-billing that wrote it")));
    }
    absl::Status applied = ApplySchema(database, path, migrations.subspan(0, version), false);
    if (!applied.ok()) return named(applied);
    database.Execute("UPDATE lineage SET logged_schema = ?, sequence = ?", static_cast<int64_t>(version),
                     record.position.sequence);
    return database.TakeError();
  }
  if (record.type != LogRecord::kChanges) return named(absl::DataLossError("of a kind that nobody knows"));
  database.Script("PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE");
  absl::Status status = database.TakeError();
  if (status.ok()) status = ApplyChanges(database, record.body);
  database.Script(status.ok() ? "COMMIT" : "ROLLBACK");
  absl::Status ended = database.TakeError();
  database.Script("PRAGMA foreign_keys = ON");
  database.TakeError().IgnoreError();
  if (status.ok()) status = ended;
  return status.ok() ? status : named(status);
}

std::string SeriesMark(Database& database) {
  Rows rows = database.Query("SELECT max(epoch) FROM restore WHERE complete = 0");
  return rows.Next() && !rows.IsNull(0) ? absl::StrCat("R", rows.Int(0)) : "";
}

CoveredBy BackupBefore(Database& database, int generation) {
  Rows rows =
      database.Query("SELECT made_us, epoch, sequence FROM backup ORDER BY made_us DESC LIMIT 1 OFFSET ?", generation);
  if (!rows.Next()) return {};
  return {rows.Int(0), {static_cast<uint32_t>(rows.Int(1)), rows.Int(2)}};
}

}  // namespace gantry::billing
