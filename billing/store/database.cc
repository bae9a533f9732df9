#include "billing/store/database.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/store/online_copy.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "services/common/file.h"

namespace gantry::billing {
namespace {

// Debian 12's. STRICT needs 3.37; sessions and RETURNING are older.
constexpr int kSqliteVersionMin = 3'040'000;
// What the log's file keeps of a peak once it begins anew.
constexpr int kWalFileBytesKept = 32 << 20;
// Steps of SQLite's machine (some 10 ns each) between two looks at the deadline.
constexpr int kStepsBetweenLooks = 4000;
// How long a statement waits for a lock. Only a program that has no business here holds one.
constexpr int kBusyMs = 500;

std::string DirectoryOf(const std::string& path) {
  return std::filesystem::absolute(path).parent_path().string();
}

}  // namespace

absl::Status SqliteStatus(int code, const std::string& message) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(absl::StrCat("the disk of the database is full: ", message));
    case SQLITE_IOERR:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(absl::StrCat("database: ", message));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
      return absl::UnavailableError(
          absl::StrCat("database: ", message, "; another program has the file open and must not (rule R13): end it"));
    case SQLITE_INTERRUPT:
      return absl::DeadlineExceededError("the query took too long; ask for less at once, or on a copy of the books");
    default:
      return absl::InternalError(absl::StrCat("database: ", message));
  }
}

namespace {

// Whether a code speaks of the files and not of the statement.
bool IsOfDisk(int code) {
  switch (code & 0xff) {
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
      return true;
    default:
      return false;
  }
}

absl::StatusOr<int> LockBeside(const std::string& path) {
  const std::string lock = path + ".lock";
  int fd = open(lock.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) {
    return absl::PermissionDeniedError(absl::StrCat("cannot write ", lock, ": ", std::strerror(errno),
                                                    "; the billing directory must belong to the user of the process"));
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    return absl::FailedPreconditionError(absl::StrCat(path, " is in use by another gantry-billing"));
  }
  return fd;
}

// A process that died of a failed sync may have left pages of the write-ahead log that are in the kernel's memory only
// and count as clean: SQLite would read them, copy them into the database, and a power loss would bring back the log
// without them, to be replayed over a database that has them. Writing every byte again makes the log what it looks
// like.
absl::Status MakeLogDurable(const std::string& path, const char* vfs_name) {
  sqlite3_vfs* vfs = sqlite3_vfs_find(vfs_name);
  // With the zero bytes around it that SQLite's file names have.
  const std::string log = path + "-wal" + std::string(4, '\0');
  int there = 0;
  if (vfs->xAccess(vfs, log.c_str(), SQLITE_ACCESS_EXISTS, &there) != SQLITE_OK || there == 0) return absl::OkStatus();
  std::vector<char> space(static_cast<size_t>(vfs->szOsFile));
  auto* file = reinterpret_cast<sqlite3_file*>(space.data());
  int code = vfs->xOpen(vfs, log.c_str(), file, SQLITE_OPEN_WAL | SQLITE_OPEN_READWRITE, nullptr);
  sqlite3_int64 size = 0;
  if (code == SQLITE_OK) code = file->pMethods->xFileSize(file, &size);
  std::vector<char> bytes(64 << 10);  // SQLite's own VFS takes less than 128 KiB at once
  for (sqlite3_int64 at = 0; code == SQLITE_OK && at < size;) {
    const int part = static_cast<int>(std::min<sqlite3_int64>(size - at, static_cast<sqlite3_int64>(bytes.size())));
    code = file->pMethods->xRead(file, bytes.data(), part, at);
    if (code == SQLITE_OK) code = file->pMethods->xWrite(file, bytes.data(), part, at);
    at += part;
  }
  if (code == SQLITE_OK && size > 0) code = file->pMethods->xSync(file, SQLITE_SYNC_NORMAL);
  if (file->pMethods != nullptr) file->pMethods->xClose(file);
  if (code == SQLITE_OK) return absl::OkStatus();
  return SqliteStatus(code, absl::StrCat(path, "-wal: ", sqlite3_errstr(code)));
}

// gantry_row_hash(…): a checksum of a row's columns (FNV-1a, 64 bits, each value with its type and length). No single
// changed byte goes unnoticed, others but by a chance of 2^-64; no defence against whoever can compute it as well.
void RowHash(sqlite3_context* context, int count, sqlite3_value** values) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](const void* data, size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100000001b3;
  };
  for (int i = 0; i < count; ++i) {
    sqlite3_value* value = values[i];
    const int type = sqlite3_value_type(value);
    if (type == SQLITE_INTEGER) {
      const sqlite3_int64 number = sqlite3_value_int64(value);
      add("i", 1);
      add(&number, sizeof number);
      continue;
    }
    const void* data = sqlite3_value_blob(value);  // TEXT as UTF-8; null when empty
    const auto size = static_cast<uint32_t>(sqlite3_value_bytes(value));
    add(type == SQLITE_TEXT ? "t" : type == SQLITE_BLOB ? "b" : "n", 1);
    add(&size, sizeof size);
    add(data, data == nullptr ? 0 : size);
  }
  sqlite3_result_int64(context, static_cast<sqlite3_int64>(hash));
}

}  // namespace

// ---- Rows ----

Rows::Rows(Rows&& other) noexcept : database_(other.database_), statement_(other.statement_), busy_(other.busy_) {
  other.statement_ = nullptr;
}

Rows::~Rows() {
  if (statement_ == nullptr) return;
  if (busy_ == nullptr) {
    sqlite3_finalize(statement_);
    return;
  }
  // Arguments stay bound: whoever uses the statement next binds all of them.
  sqlite3_reset(statement_);
  *busy_ = false;
}

bool Rows::Next() {
  if (statement_ == nullptr || !database_->ok()) return false;
  int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) database_->Remember(code);
  return false;
}

int64_t Rows::Int(int column) const {
  return sqlite3_column_int64(statement_, column);
}

std::string Rows::Text(int column) const {
  return std::string(View(column));
}

absl::string_view Rows::View(int column) const {
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement_, column));
  return bytes == nullptr ? absl::string_view()
                          : absl::string_view(bytes, static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
}

Id16 Rows::Id(int column) const {
  Id16 id;
  const void* bytes = sqlite3_column_blob(statement_, column);
  if (bytes != nullptr && sqlite3_column_bytes(statement_, column) == static_cast<int>(id.bytes.size())) {
    std::memcpy(id.bytes.data(), bytes, id.bytes.size());
  }
  return id;
}

bool Rows::IsNull(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

// ---- Database ----

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path, Mode mode, const char* vfs) {
  GANTRY_CHECK(sqlite3_threadsafe() != 0, "SQLite is built for threads");
  if (sqlite3_libversion_number() < kSqliteVersionMin) {
    return absl::FailedPreconditionError(absl::StrCat("SQLite ", sqlite3_libversion(), " is too old: expected ",
                                                      kSqliteVersionMin / 1'000'000, ".",
                                                      kSqliteVersionMin / 1'000 % 1'000, " or newer"));
  }
  // Counting every allocation under a lock costs a tenth of the writer's time. Refused once SQLite runs already.
  static const int configured = sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
  (void)configured;
  int lock_fd = -1;
  if (mode == Mode::kOffline && access(path.c_str(), R_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  if (vfs != nullptr) {
    // Its files are not the machine's.
  } else if (mode == Mode::kOffline) {
    absl::StatusOr<int> lock = LockBeside(path);
    if (!lock.ok()) return lock.status();
    lock_fd = *lock;
  } else if (mode == Mode::kWriter) {
    absl::StatusOr<int> lock = LockBeside(path);
    if (!lock.ok()) return lock.status();
    lock_fd = *lock;
    const bool is_new = access(path.c_str(), F_OK) != 0;
    int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
      int error = errno;
      close(lock_fd);
      return absl::PermissionDeniedError(absl::StrCat("cannot write ", path, ": ", std::strerror(error)));
    }
    close(fd);
    // SQLite syncs the directory for its logs only; the name of the database must not go at power loss either.
    absl::Status named = is_new ? PosixFileSystem()->SyncDirectory(DirectoryOf(path)) : absl::OkStatus();
    if (!named.ok()) {
      close(lock_fd);
      return named;
    }
  } else if (access(path.c_str(), R_OK) != 0) {
    return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  if (mode == Mode::kWriter) {
    absl::Status durable = MakeLogDurable(path, vfs);
    if (!durable.ok()) {
      if (lock_fd >= 0) close(lock_fd);
      return durable;
    }
  }
  sqlite3* handle = nullptr;
  const int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_READWRITE | (vfs != nullptr ? SQLITE_OPEN_CREATE : 0);
  int code = sqlite3_open_v2(path.c_str(), &handle, flags, vfs);
  std::unique_ptr<Database> database(new Database(handle));
  database->lock_fd_ = lock_fd;
  if (code != SQLITE_OK) return SqliteStatus(code, absl::StrCat(path, ": ", sqlite3_errmsg(handle)));
  sqlite3_extended_result_codes(handle, 1);
  // The last to close would copy the log into the database.
  if (mode == Mode::kOffline) sqlite3_db_config(handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  // Cursors, records and arguments of a statement are some hundred bytes each and come and go with it.
  sqlite3_db_config(handle, SQLITE_DBCONFIG_LOOKASIDE, nullptr, 512, 512);
  sqlite3_busy_timeout(handle, kBusyMs);
  sqlite3_create_function_v2(handle, "gantry_row_hash", -1, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
                             nullptr, &RowHash, nullptr, nullptr, nullptr);
  database->Script(
      "PRAGMA mmap_size = 0; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -4096; PRAGMA "
      "temp_store = MEMORY;");
  if (mode == Mode::kWriter) {
    database->Script(absl::StrCat("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536; "
                                  "PRAGMA wal_autocheckpoint = 0; PRAGMA journal_size_limit = ",
                                  kWalFileBytesKept)
                         .c_str());
    sqlite3_wal_hook(handle, &Database::OnCommit, database.get());
    {
      Rows rows = database->Query("PRAGMA journal_mode");
      if (rows.Next() && rows.Text(0) != "wal")
        database->error_ = absl::InternalError("database: WAL is not available");
    }
    {
      Rows rows = database->Query("PRAGMA synchronous");
      if (!rows.Next() || rows.Int(0) != 2) {
        if (database->ok()) database->error_ = absl::InternalError("database: synchronous is not FULL");
      }
    }
  } else {
    database->Script("PRAGMA query_only = ON; PRAGMA wal_autocheckpoint = 0;");
  }
  sqlite3_progress_handler(handle, kStepsBetweenLooks, &Database::OnProgress, database.get());
  absl::Status error = database->TakeError();
  if (!error.ok()) return absl::Status(error.code(), absl::StrCat(path, ": ", error.message()));
  return database;
}

Database::~Database() {
  for (auto& [sql, cached] : statements_) sqlite3_finalize(cached.statement);
  sqlite3_close(handle_);
  if (lock_fd_ >= 0) close(lock_fd_);
}

Rows Database::Prepare(const char* sql) {
  if (!ok()) return Rows(this, nullptr, nullptr);
  Cached& cached = statements_[sql];
  if (cached.statement != nullptr && !cached.busy) {
    cached.busy = true;
    return Rows(this, cached.statement, &cached.busy);
  }
  sqlite3_stmt* statement = nullptr;
  const bool keep = cached.statement == nullptr;
  int code = sqlite3_prepare_v3(handle_, sql, -1, keep ? SQLITE_PREPARE_PERSISTENT : 0, &statement, nullptr);
  if (code != SQLITE_OK) {
    Remember(code);
    return Rows(this, nullptr, nullptr);
  }
  if (!keep) return Rows(this, statement, nullptr);
  cached.statement = statement;
  cached.busy = true;
  return Rows(this, statement, &cached.busy);
}

Rows Database::QueryText(const std::string& sql) {
  if (!ok()) return Rows(this, nullptr, nullptr);
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(handle_, sql.c_str(), -1, &statement, nullptr);
  if (code != SQLITE_OK) Remember(code);
  return Rows(this, statement, nullptr);
}

void Database::Script(const char* sql) {
  if (!ok()) return;
  int code = sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) Remember(code);
}

void Database::CheckArgumentCount(sqlite3_stmt* statement, int bound, const char* sql) {
  if (sqlite3_bind_parameter_count(statement) != bound) std::fprintf(stderr, "%s\n", sql);
  GANTRY_CHECK(sqlite3_bind_parameter_count(statement) == bound, "a statement gets as many arguments as it has marks");
}

void Database::Bind(sqlite3_stmt* statement, int position, int64_t value) {
  sqlite3_bind_int64(statement, position, value);
}
void Database::Bind(sqlite3_stmt* statement, int position, uint64_t value) {
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    if (ok()) error_ = absl::OutOfRangeError("a count does not fit 63 bits");
    return;
  }
  sqlite3_bind_int64(statement, position, static_cast<int64_t>(value));
}
void Database::Bind(sqlite3_stmt* statement, int position, const Id16& id) {
  sqlite3_bind_blob(statement, position, id.bytes.data(), static_cast<int>(id.bytes.size()),
                    borrows_ ? SQLITE_STATIC : SQLITE_TRANSIENT);
}
void Database::Bind(sqlite3_stmt* statement, int position, Blob blob) {
  sqlite3_bind_blob64(statement, position, blob.bytes.empty() ? "" : blob.bytes.data(), blob.bytes.size(),
                      borrows_ ? SQLITE_STATIC : SQLITE_TRANSIENT);
}
void Database::Bind(sqlite3_stmt* statement, int position, absl::string_view text) {
  sqlite3_bind_text64(statement, position, text.empty() ? "" : text.data(), text.size(),
                      borrows_ ? SQLITE_STATIC : SQLITE_TRANSIENT, SQLITE_UTF8);
}
void Database::Bind(sqlite3_stmt* statement, int position, std::nullptr_t) {
  sqlite3_bind_null(statement, position);
}

absl::Status Database::BackupTo(const std::string& path) {
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<OnlineCopy> copy, OnlineCopy::Start(*this, path));
  GANTRY_RETURN_IF_ERROR(copy->Step(-1).status());
  return copy->Finish();
}

// ---- the write-ahead log ----

int Database::OnCommit(void* self, sqlite3*, const char*, int frames) {
  static_cast<Database*>(self)->wal_frames_ = frames;
  return SQLITE_OK;
}

absl::StatusOr<WalFrames> Database::Checkpoint(bool restart, std::chrono::milliseconds wait) {
  WalFrames frames;
  sqlite3_busy_timeout(handle_, static_cast<int>(wait.count()));
  const int code =
      sqlite3_wal_checkpoint_v2(handle_, "main", restart ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE,
                                &frames.all, &frames.checkpointed);
  absl::Status status = code == SQLITE_OK ? absl::OkStatus() : SqliteStatus(code, sqlite3_errmsg(handle_));
  sqlite3_busy_timeout(handle_, kBusyMs);
  if (code == SQLITE_BUSY) return absl::UnavailableError("readers still need the write-ahead log");
  if (!status.ok()) return absl::Status(status.code(), absl::StrCat("checkpoint: ", status.message()));
  if (restart) wal_frames_ = 0;
  return frames;
}

// ---- time limits ----

int Database::OnProgress(void* self) {
  auto* database = static_cast<Database*>(self);
  if (database->interrupted_.load(std::memory_order_relaxed)) return 1;
  if (database->deadline_ == std::chrono::steady_clock::time_point::max()) return 0;
  return std::chrono::steady_clock::now() >= database->deadline_ ? 1 : 0;
}

void Database::SetDeadline(std::chrono::steady_clock::time_point deadline) {
  interrupted_ = false;
  deadline_ = deadline;
}

void Database::ClearDeadline() {
  interrupted_ = false;
  deadline_ = std::chrono::steady_clock::time_point::max();
}

// ---- errors ----

void Database::Fail(absl::Status error) {
  if (ok()) error_ = std::move(error);
}

void Database::Remember(int code) {
  if (!ok()) return;
  error_ = SqliteStatus(code, sqlite3_errmsg(handle_));
  error_is_of_disk_ = IsOfDisk(code);
}

absl::Status Database::TakeError(bool* disk) {
  absl::Status error = std::move(error_);
  error_ = absl::OkStatus();
  if (disk != nullptr) *disk = error_is_of_disk_;
  error_is_of_disk_ = false;
  return error;
}

bool Database::InTransaction() const {
  return sqlite3_get_autocommit(handle_) == 0;
}
int64_t Database::LastRowId() const {
  return sqlite3_last_insert_rowid(handle_);
}
int64_t Database::Changes() const {
  return sqlite3_changes64(handle_);
}

}  // namespace gantry::billing
