#include "billing/store/changes.h"

#define SQLITE_ENABLE_SESSION 1
#define SQLITE_ENABLE_PREUPDATE_HOOK 1
#include <sqlite3.h>

#include "absl/strings/str_cat.h"
#include "billing/store/database.h"

namespace gantry::billing {
namespace {

const char* ConflictName(int conflict) {
  switch (conflict) {
    case SQLITE_CHANGESET_DATA:
      return "a row holds something else";
    case SQLITE_CHANGESET_NOTFOUND:
      return "a row is missing";
    case SQLITE_CHANGESET_CONFLICT:
      return "a row is there already";
    case SQLITE_CHANGESET_CONSTRAINT:
      return "a constraint would be broken";
    default:
      return "a row would refer to nothing";
  }
}

int OnConflict(void* out, int conflict, sqlite3_changeset_iter* change) {
  const char* table = "";
  int columns = 0, operation = 0, indirect = 0;
  if (conflict != SQLITE_CHANGESET_FOREIGN_KEY) sqlite3changeset_op(change, &table, &columns, &operation, &indirect);
  *static_cast<std::string*>(out) = absl::StrCat("table ", table, ": ", ConflictName(conflict));
  return SQLITE_CHANGESET_ABORT;
}

// SQLite skips, silently, what was changed in a table that is not there or has another shape here.
absl::Status CheckTables(Database& database, absl::string_view changes) {
  sqlite3_changeset_iter* at = nullptr;
  int code = sqlite3changeset_start(&at, static_cast<int>(changes.size()), const_cast<char*>(changes.data()));
  std::string last, wrong;
  while (code == SQLITE_OK && wrong.empty() && sqlite3changeset_next(at) == SQLITE_ROW) {
    const char* table = "";
    int columns = 0, operation = 0, indirect = 0, key_columns = 0;
    unsigned char* keys = nullptr;
    code = sqlite3changeset_op(at, &table, &columns, &operation, &indirect);
    if (code != SQLITE_OK || last == table) continue;
    last = table;
    code = sqlite3changeset_pk(at, &keys, &key_columns);
    int found = 0;
    bool same = code == SQLITE_OK;
    Rows rows = database.Query("SELECT pk FROM pragma_table_info(?) ORDER BY cid", last);
    for (; rows.Next(); ++found) same = same && found < key_columns && (rows.Int(0) != 0) == (keys[found] != 0);
    if (!same || found != columns) wrong = last;
  }
  const int ended = sqlite3changeset_finalize(at);
  absl::Status read = database.TakeError();
  if (!read.ok()) return read;
  if (!wrong.empty())
    return absl::DataLossError(absl::StrCat("changes do not fit the books: table ", wrong, " has another shape"));
  if (code != SQLITE_OK || ended != SQLITE_OK) return absl::DataLossError("changes cannot be read");
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRecordable(Database& database) {
  std::string wrong;
  {
    Rows tables = database.Query(
        "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "AND type <> 'view'");
    while (tables.Next()) {
      const std::string name = tables.Text(0);
      const bool without_rowid = tables.Int(2) != 0;
      if (tables.Text(1) == "virtual" || tables.Text(1) == "shadow") {
        wrong = absl::StrCat("table ", name, " is virtual");
      }
      int keys = 0, integer_keys = 0, nullable_keys = 0;
      Rows columns = database.Query("SELECT pk, \"notnull\", upper(type), hidden FROM pragma_table_xinfo(?)", name);
      while (columns.Next()) {
        if (columns.Int(3) != 0) wrong = absl::StrCat("table ", name, " has generated columns");
        if (columns.Int(0) == 0) continue;
        ++keys;
        integer_keys += columns.Text(2) == "INTEGER" ? 1 : 0;
        nullable_keys += columns.Int(1) == 0 && !without_rowid ? 1 : 0;
      }
      if (keys == 0) wrong = absl::StrCat("table ", name, " has no primary key");
      const bool is_rowid = keys == 1 && integer_keys == 1;
      if (nullable_keys > 0 && !is_rowid) {
        wrong = absl::StrCat("table ", name, " has a primary key that may be NULL");
      }
      if (!wrong.empty()) break;
    }
  }
  absl::Status status = database.TakeError();
  if (!status.ok()) return status;
  if (wrong.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(wrong, ": its changes would not reach the command log"));
}

absl::StatusOr<std::unique_ptr<ChangeRecorder>> ChangeRecorder::Start(Database& database) {
  sqlite3_session* session = nullptr;
  if (sqlite3session_create(database.handle(), "main", &session) != SQLITE_OK ||
      sqlite3session_attach(session, nullptr) != SQLITE_OK) {
    if (session != nullptr) sqlite3session_delete(session);
    return absl::InternalError("changes cannot be recorded: out of memory");
  }
  return std::unique_ptr<ChangeRecorder>(new ChangeRecorder(session));
}

ChangeRecorder::~ChangeRecorder() {
  sqlite3session_delete(session_);
}

bool ChangeRecorder::empty() const {
  return sqlite3session_isempty(session_) != 0;
}

absl::StatusOr<std::string> ChangeRecorder::Changes() const {
  int size = 0;
  void* bytes = nullptr;
  const int code = sqlite3session_changeset(session_, &size, &bytes);
  if (code != SQLITE_OK) return absl::InternalError(absl::StrCat("recording changes: ", sqlite3_errstr(code)));
  std::string changes(static_cast<const char*>(bytes), static_cast<size_t>(size));
  sqlite3_free(bytes);
  return changes;
}

absl::Status ApplyChanges(Database& database, absl::string_view changes) {
  absl::Status fits = CheckTables(database, changes);
  if (!fits.ok()) return fits;
  sqlite3* handle = database.handle();
  // What triggers did is among the changes.
  int triggers = 0;
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, &triggers);
  std::string conflict;
  const int code = sqlite3changeset_apply(handle, static_cast<int>(changes.size()), const_cast<char*>(changes.data()),
                                          nullptr, OnConflict, &conflict);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_TRIGGER, 1, &triggers);
  if (code == SQLITE_OK) return absl::OkStatus();
  if (!conflict.empty()) {
    return absl::DataLossError(absl::StrCat("changes do not fit the books: ", conflict));
  }
  return absl::DataLossError(absl::StrCat("changes cannot be applied: ", sqlite3_errmsg(handle)));
}

}  // namespace gantry::billing
