// SQLite for code that knows its statements: typed binds, typed columns, errors that stick.
//
// An error inside a statement (disk full, constraint, wrong type) is remembered by the Database; later statements do
// nothing and read nothing until TakeError. The writer asks once per command, so that commands need no check after each
// line, and a command whose reads failed can never commit what it concluded from them.
//
// Rule R13: one connection writes and checkpoints, on one thread; others read only. SQLite before 3.51.3 may lose
// commits when two connections do, so nothing here checkpoints by itself: Checkpoint() is called between commits, by
// the writer. No mmap. SQLite's version and `synchronous` = FULL are asserted at open.
//
// Threads: one thread at a time per Database, except Interrupt.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <typeindex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/common/ids.h"

struct sqlite3;
struct sqlite3_stmt;

namespace gantry::billing {

// SQLite's result code as a status; the one place where they are translated.
absl::Status SqliteStatus(int code, const std::string& message);

// Bound as BLOB; plain strings are bound as TEXT.
struct Blob {
  absl::string_view bytes;
};

class Database;

// A running statement: its rows, one after the other. Ends when it goes out of scope.
class Rows {
 public:
  Rows(Rows&& other) noexcept;
  ~Rows();
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  // To the next row. False at the end and after an error.
  bool Next();
  int64_t Int(int column) const;
  std::string Text(int column) const;  // TEXT or BLOB as bytes; "" for NULL
  // The same without a copy, until Next.
  absl::string_view View(int column) const;
  // A BLOB of 16 bytes; zero for anything else.
  Id16 Id(int column) const;
  bool IsNull(int column) const;

 private:
  friend class Database;
  Rows(Database* database, sqlite3_stmt* statement, bool* busy)
      : database_(database), statement_(statement), busy_(busy) {}
  Database* database_;
  sqlite3_stmt* statement_;  // null: an error came before
  bool* busy_;               // of the kept statement; null: this one is ours alone
};

// Frames of the write-ahead log: all, and those that are in the database file as well.
struct WalFrames {
  int all = 0;
  int checkpointed = 0;
};

class Database {
 public:
  // kOffline: reads books that nobody has open, under the writer's lock, and leaves every file as it is.
  enum class Mode { kWriter, kReader, kOffline };
  // A writer creates the file (0600) when there is none. Errors name the path: NOT_FOUND, PERMISSION_DENIED, DATA_LOSS
  // (not a database), FAILED_PRECONDITION (in use by another process: the writer holds a lock file beside it).
  // `vfs`: a registered SQLite VFS that keeps files of its own (tests); null: the machine's files.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path, Mode mode, const char* vfs = nullptr);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // `sql` is a literal; prepared once and known by its address. Arguments: integers, Id16, Blob, text, nullptr, in the
  // order of the `?`.
  template <typename... Args>
  Rows Query(const char* sql, const Args&... args) {
    Rows rows = Prepare(sql);
    if (rows.statement_ != nullptr) {
      int position = 0;
      (Bind(rows.statement_, ++position, args), ...);
      CheckArgumentCount(rows.statement_, position, sql);
    }
    return rows;
  }
  // Runs a statement that gives no rows. The number of rows changed.
  template <typename... Args>
  int64_t Execute(const char* sql, const Args&... args) {
    borrows_ = true;  // arguments live until this returns: nothing of them is copied
    Rows rows = Query(sql, args...);
    borrows_ = false;
    while (rows.Next()) {
    }
    return ok() ? Changes() : 0;
  }
  // One statement without arguments that is no literal; prepared anew each time.
  Rows QueryText(const std::string& sql);
  // Several statements without arguments.
  void Script(const char* sql);

  // Writes a complete copy of what is committed to a new file (0600) and syncs it; an older file of that name is
  // replaced only by a complete one. Not inside a transaction.
  absl::Status BackupTo(const std::string& path);

  // ---- the write-ahead log; the writer's alone ----
  // Frames that the last commit left behind.
  int wal_frames() const { return wal_frames_; }
  // Copies into the database file what no reader still needs in the log. `restart`: also waits, at most `wait`, for the
  // readers, cuts the file and begins it anew; UNAVAILABLE when they did not end in time. Not inside a transaction.
  absl::StatusOr<WalFrames> Checkpoint(bool restart = false,
                                       std::chrono::milliseconds wait = std::chrono::milliseconds(0));

  // ---- time limits ----
  // Statements that run or begin after `deadline` end with DEADLINE_EXCEEDED, until ClearDeadline.
  void SetDeadline(std::chrono::steady_clock::time_point deadline);
  void ClearDeadline();
  // Any thread: the same at once.
  void Interrupt() { interrupted_ = true; }

  // ---- what a command leaves to the next ----
  // The T of this connection, made when there is none: rows that a command has read and the next one need not read
  // again. Only for what commands that keep things change through their T alone; the store forgets everything after any
  // other command, and after anything was undone. Null: the running command keeps nothing.
  template <typename T>
  T* Kept() {
    if (!keeps_) return nullptr;
    for (auto& [type, kept] : kept_) {
      if (type == typeid(T)) return static_cast<T*>(kept.get());
    }
    kept_.emplace_back(typeid(T), std::make_shared<T>());
    return static_cast<T*>(kept_.back().second.get());
  }
  // For the store: whether the command that runs next keeps things.
  void SetKeeps(bool keeps) { keeps_ = keeps; }
  void Forget() { kept_.clear(); }

  bool ok() const { return error_.ok(); }
  // As if a statement had failed with `error`: what found the books wrong in the middle of a command says so here.
  void Fail(absl::Status error);
  // The first error since the last call, as RESOURCE_EXHAUSTED (disk full), DATA_LOSS (I/O, corruption), UNAVAILABLE
  // (locked by somebody else), DEADLINE_EXCEEDED or INTERNAL. *disk (may be null): whether it says that the files
  // cannot be used, and not only that a statement was wrong.
  absl::Status TakeError(bool* disk = nullptr);
  // False once SQLite has rolled a transaction back by itself, as it does when the disk is full.
  bool InTransaction() const;
  int64_t LastRowId() const;
  int64_t Changes() const;
  // For what SQLite alone can do: sessions, backups.
  sqlite3* handle() const { return handle_; }

 private:
  friend class Rows;
  explicit Database(sqlite3* handle) : handle_(handle) {}
  Rows Prepare(const char* sql);
  void CheckArgumentCount(sqlite3_stmt* statement, int bound, const char* sql);
  void Bind(sqlite3_stmt* statement, int position, int64_t value);
  void Bind(sqlite3_stmt* statement, int position, int value) { Bind(statement, position, int64_t{value}); }
  void Bind(sqlite3_stmt* statement, int position, uint32_t value) { Bind(statement, position, int64_t{value}); }
  // Counts beyond int64 have no place here: remembered as an error.
  void Bind(sqlite3_stmt* statement, int position, uint64_t value);
  void Bind(sqlite3_stmt* statement, int position, const Id16& id);
  void Bind(sqlite3_stmt* statement, int position, Blob blob);
  void Bind(sqlite3_stmt* statement, int position, absl::string_view text);
  void Bind(sqlite3_stmt* statement, int position, const std::string& text) {
    Bind(statement, position, absl::string_view(text));
  }
  void Bind(sqlite3_stmt* statement, int position, const char* text) {
    Bind(statement, position, absl::string_view(text));
  }
  void Bind(sqlite3_stmt* statement, int position, std::nullptr_t);
  void Remember(int code);

  struct Cached {
    sqlite3_stmt* statement = nullptr;
    bool busy = false;
  };
  static int OnCommit(void* self, sqlite3*, const char*, int frames);
  static int OnProgress(void* self);

  sqlite3* handle_;
  int lock_fd_ = -1;
  std::unordered_map<const char*, Cached> statements_;  // by the address of the literal
  bool borrows_ = false;
  bool keeps_ = false;
  std::vector<std::pair<std::type_index, std::shared_ptr<void>>> kept_;
  absl::Status error_;
  bool error_is_of_disk_ = false;
  int wal_frames_ = 0;
  std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::time_point::max();
  std::atomic<bool> interrupted_{false};
};

}  // namespace gantry::billing
