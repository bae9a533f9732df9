#include "billing/backup/books_facts.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

namespace fs = std::filesystem;

constexpr size_t kFilesMax = 1000;
constexpr uint64_t kFileBytesMax = 1 << 20;

// The database, its logs, lock, copies before migrations and unfinished copies.
bool IsOfDatabase(const std::string& name) {
  return absl::StartsWith(name, "gantry.db") || absl::StartsWith(name, kCopyPrefix) || absl::EndsWith(name, ".part");
}

}  // namespace

absl::StatusOr<std::vector<BackupTable>> NumberedTables(Database& database) {
  std::vector<BackupTable> tables;
  std::vector<bool> chained;
  {
    Rows rows = database.Query(
        "SELECT s.name, (SELECT count(*) FROM pragma_table_info(s.name) WHERE name = 'hash') FROM sqlite_schema s "
        "WHERE s.type = 'table' AND EXISTS (SELECT 1 FROM pragma_table_info(s.name) WHERE name = 'seq' AND pk = 1 AND "
        "type = 'INTEGER') ORDER BY s.name");
    while (rows.Next()) {
      tables.push_back({rows.Text(0), 0, ""});
      chained.push_back(rows.Int(1) != 0);
    }
  }
  for (size_t i = 0; i < tables.size(); ++i) {
    const std::string sql = absl::StrCat("SELECT seq, ", chained[i] ? "hash" : "NULL", " FROM \"", tables[i].name,
                                         "\" ORDER BY seq DESC LIMIT 1");
    Rows rows = database.QueryText(sql);
    if (!rows.Next()) continue;
    tables[i].last_seq = rows.Int(0);
    tables[i].head = rows.Text(1);
  }
  GANTRY_RETURN_IF_ERROR(database.TakeError());
  return tables;
}

absl::StatusOr<std::vector<std::string>> FilesBeside(const std::string& data_dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::recursive_directory_iterator at(data_dir, error), end; !error && at != end; at.increment(error)) {
    if (!at->is_regular_file(error) || at->is_symlink(error)) continue;
    const std::string name = at->path().lexically_relative(data_dir).string();
    if (IsOfDatabase(name)) continue;
    const uint64_t bytes = at->file_size(error);
    if (bytes > kFileBytesMax || names.size() >= kFilesMax) {
      return absl::FailedPreconditionError(absl::StrCat(at->path().string(), " does not belong in billing's data dir (",
                                                        bytes, " bytes, file ", names.size() + 1,
                                                        "): move it away, then make the backup"));
    }
    names.push_back(name);
  }
  if (error) return absl::InternalError(absl::StrCat(data_dir, " cannot be read: ", error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace gantry::billing
