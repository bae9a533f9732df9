// The row changes of a transaction as bytes: recorded on the writer's connection, applied to a copy of the books.
//
// SQLite's session extension: a change names its row by its primary key and carries what the row held before, so
// applying it to books in any other state is noticed and refused. Every table needs a declared primary key; see
// CheckRecordable. What changes the schema is not a row change.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct sqlite3_session;

namespace gantry::billing {

class Database;

// FAILED_PRECONDITION names what would go unrecorded: a table without primary key or whose key may be NULL, one with
// generated columns, a virtual table. AUTOINCREMENT is well: its counter is no row that is recorded, but applying an
// insert moves it, and whoever has seen a number has seen it after a commit that inserted it.
absl::Status CheckRecordable(Database& database);

// Records from its making until it goes.
class ChangeRecorder {
 public:
  static absl::StatusOr<std::unique_ptr<ChangeRecorder>> Start(Database& database);
  ~ChangeRecorder();
  ChangeRecorder(const ChangeRecorder&) = delete;
  ChangeRecorder& operator=(const ChangeRecorder&) = delete;

  // Whether no row was touched.
  bool empty() const;
  // What is different from the beginning, inside the same transaction.
  absl::StatusOr<std::string> Changes() const;

 private:
  explicit ChangeRecorder(sqlite3_session* session) : session_(session) {}
  sqlite3_session* session_;
};

// Inside a transaction of the caller, triggers silent. DATA_LOSS names the table where the books are not in the state
// in which the changes were made; then the transaction must be rolled back.
absl::Status ApplyChanges(Database& database, absl::string_view changes);

}  // namespace gantry::billing
