#include "billing/backup/restore.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "billing/audit/audit.h"
#include "billing/backup/books_facts.h"
#include "billing/backup/new_epoch.h"
#include "billing/store/changes.h"
#include "billing/store/database.h"
#include "billing/store/lineage.h"
#include "billing/store/schema.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

namespace fs = std::filesystem;

constexpr char kPartDirectory[] = "restore.part";

absl::Status SyncPath(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be opened"));
  const int failed = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return failed == 0 ? absl::OkStatus() : absl::ErrnoToStatus(failed, absl::StrCat(path, ": fsync failed"));
}

absl::Status MakeDirectories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return absl::PermissionDeniedError(absl::StrCat(path.string(), " cannot be made: ", error.message()));
  fs::permissions(path, fs::perms::owner_all, error);
  return absl::OkStatus();
}

// Writes the backup's files under a directory of their own.
class Extraction {
 public:
  Extraction(std::string directory, std::string data_dir)
      : directory_(std::move(directory)), data_dir_(std::move(data_dir)) {}
  ~Extraction() {
    if (fd_ >= 0) close(fd_);
    std::error_code error;
    fs::remove_all(directory_, error);
  }
  std::string PathOf(const std::string& name) const { return directory_ + "/" + name; }
  const std::vector<std::string>& names() const { return names_; }

  BackupSink Sink() {
    return {.begin = [this](const std::string& name, uint64_t) { return Begin(name); },
            .write = [this](absl::string_view bytes) { return Write(bytes); },
            .end = [this] { return End(); }};
  }

 private:
  absl::Status Begin(const std::string& name) {
    if (fs::exists(data_dir_ + "/" + name)) {
      return absl::FailedPreconditionError(
          absl::StrCat(data_dir_, "/", name,
                       " is there already: restore into an empty --data-dir, or move what is there away first"));
    }
    path_ = PathOf(name);
    GANTRY_RETURN_IF_ERROR(MakeDirectories(fs::path(path_).parent_path()));
    fd_ = open(path_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (fd_ < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": cannot be created"));
    names_.push_back(name);
    return absl::OkStatus();
  }
  absl::Status Write(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path_, ": writing failed"));
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return absl::OkStatus();
  }
  absl::Status End() {
    const int failed = fsync(fd_) == 0 ? 0 : errno;
    close(fd_);
    fd_ = -1;
    return failed == 0 ? absl::OkStatus() : absl::ErrnoToStatus(failed, absl::StrCat(path_, ": fsync failed"));
  }

  const std::string directory_, data_dir_;
  std::vector<std::string> names_;
  std::string path_;
  int fd_ = -1;
};

// That the database is the one that the manifest speaks of.
absl::Status CheckAgainst(const BackupManifest& manifest, Database& database) {
  {
    Rows rows = database.Query("PRAGMA integrity_check(1)");
    const std::string found = rows.Next() ? rows.Text(0) : "";
    if (found != "ok") return absl::DataLossError(absl::StrCat("the database of the backup is broken: ", found));
  }
  GANTRY_ASSIGN_OR_RETURN(const Lineage lineage, ReadLineage(database));
  GANTRY_ASSIGN_OR_RETURN(const int64_t schema, SchemaVersion(database));
  GANTRY_ASSIGN_OR_RETURN(const std::vector<BackupTable> tables, NumberedTables(database));
  if (lineage.books_id != manifest.books_id || lineage.position != manifest.position ||
      schema != manifest.schema_version || tables != manifest.tables) {
    return absl::DataLossError("the database of the backup is not the one that its manifest describes");
  }
  if (schema > static_cast<int64_t>(Migrations().size())) {
    return absl::FailedPreconditionError(absl::StrCat("the backup has schema version ", schema,
                                                      ", this program knows up to ", Migrations().size(),
                                                      "; use the newer gantry that wrote it"));
  }
  return absl::OkStatus();
}

absl::Status Replay(const RestoreOptions& options, Database& database, const std::string& path, RestoreReport* report,
                    BooksPosition* end) {
  FileSystem* file_system = PosixFileSystem();
  GANTRY_ASSIGN_OR_RETURN(const CommandLogReader log,
                          CommandLogReader::Open(file_system, options.command_log, report->manifest.books_id));
  if (!report->manifest.command_log || log.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.command_log, " holds nothing that follows this backup",
                     log.empty() ? " (it is empty)" : " (the books had no command log when it was made)",
                     "; give the directory of gantry-billing's --command-log, or restore the backup alone"));
  }
  const absl::Status replayed = log.Replay(
      report->manifest.position,
      [&](const LogRecord& record) {
        ++report->replayed;
        report->last_us = record.time_us;
        return ApplyRecord(database, path, Migrations(), record);
      },
      end);
  if (absl::IsOutOfRange(replayed)) return absl::FailedPreconditionError(replayed.message());
  GANTRY_RETURN_IF_ERROR(replayed);
  // The log ends where its newest epoch does, so everything that it ever held is there.
  report->complete = true;
  return absl::OkStatus();
}

absl::Status AuditBooks(Database& database, RestoreReport* report) {
  GANTRY_ASSIGN_OR_RETURN(const int64_t schema, SchemaVersion(database));
  if (schema < static_cast<int64_t>(Migrations().size())) return absl::OkStatus();
  const v1::AuditReport audit = Audit(database);
  report->audited = true;
  report->audit_ok = audit.ok();
  for (const v1::AuditCheck& check : audit.checks()) {
    if (!check.ok()) absl::StrAppend(&report->audit_failures, check.name(), ": ", check.detail(), "\n");
  }
  return database.TakeError();
}

// The new epoch, first in the command log when there is one, as every change of these books.
absl::Status Begin(const RestoreOptions& options, Database& database, const BooksPosition& end, RestoreReport* report) {
  const BooksPosition position{std::max(end.epoch, report->manifest.position.epoch) + 1, end.sequence + 1};
  std::unique_ptr<CommandLog> log;
  if (!options.command_log.empty()) {
    GANTRY_ASSIGN_OR_RETURN(log, CommandLog::Open({.file_system = PosixFileSystem(),
                                                   .directory = options.command_log,
                                                   .books_id = report->manifest.books_id},
                                                  {position.epoch, end.sequence}, end));
  }
  database.Script("BEGIN IMMEDIATE");
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<ChangeRecorder> recorder, ChangeRecorder::Start(database));
  GANTRY_RETURN_IF_ERROR(BeginEpoch(database, position,
                                    {.now_us = options.now_us,
                                     .backup_us = report->manifest.made_us,
                                     .last_us = report->last_us,
                                     .complete = report->complete}));
  if (log == nullptr) database.Execute("UPDATE lineage SET logged = 0");
  GANTRY_RETURN_IF_ERROR(database.TakeError());
  if (log != nullptr) {
    LogRecord record;
    record.position = position;
    record.time_us = options.now_us;
    GANTRY_ASSIGN_OR_RETURN(record.body, recorder->Changes());
    recorder.reset();
    GANTRY_RETURN_IF_ERROR(log->Append(record));
  }
  recorder.reset();
  database.Script("COMMIT");
  report->epoch = position.epoch;
  report->series_mark = SeriesMark(database);
  return database.TakeError();
}

}  // namespace

absl::StatusOr<RestoreReport> Restore(const RestoreOptions& options) {
  if (fs::exists(options.data_dir + "/" + kBackupDatabase)) {
    return absl::FailedPreconditionError(absl::StrCat(
        options.data_dir, " has books already: restore into an empty --data-dir, or move them away first"));
  }
  GANTRY_RETURN_IF_ERROR(MakeDirectories(options.data_dir));
  const std::string directory = absl::StrCat(options.data_dir, "/", kPartDirectory);
  std::error_code error;
  fs::remove_all(directory, error);  // of a restore that did not end
  Extraction extraction(directory, options.data_dir);
  RestoreReport report;
  GANTRY_ASSIGN_OR_RETURN(report.manifest, ReadBackup(options.backup, options.passphrase, extraction.Sink()));
  report.last_us = report.manifest.made_us;
  const std::string path = extraction.PathOf(kBackupDatabase);
  if (!fs::exists(path)) return absl::DataLossError(absl::StrCat(options.backup, " holds no database"));
  {
    GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<Database> database, Database::Open(path, Database::Mode::kWriter));
    GANTRY_RETURN_IF_ERROR(CheckAgainst(report.manifest, *database));
    BooksPosition end = report.manifest.position;
    if (!options.command_log.empty()) GANTRY_RETURN_IF_ERROR(Replay(options, *database, path, &report, &end));
    GANTRY_RETURN_IF_ERROR(AuditBooks(*database, &report));
    GANTRY_RETURN_IF_ERROR(Begin(options, *database, end, &report));
    GANTRY_RETURN_IF_ERROR(database->Checkpoint(true, std::chrono::milliseconds(1000)).status());
  }
  for (const char* left : {"-wal", "-shm", ".lock"}) unlink((path + left).c_str());
  GANTRY_RETURN_IF_ERROR(SyncPath(path));
  // The database last: without it the restore has not happened.
  std::vector<std::string> names = extraction.names();
  std::stable_partition(names.begin(), names.end(), [](const std::string& name) { return name != kBackupDatabase; });
  std::set<std::string> directories = {options.data_dir};
  for (const std::string& name : names) {
    const std::string to = options.data_dir + "/" + name;
    const fs::path parent = fs::path(to).parent_path();
    GANTRY_RETURN_IF_ERROR(MakeDirectories(parent));
    directories.insert(parent.string());
    if (name == kBackupDatabase) {
      for (const std::string& changed : directories) GANTRY_RETURN_IF_ERROR(SyncPath(changed));
    }
    if (rename(extraction.PathOf(name).c_str(), to.c_str()) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat(to, ": cannot be put in its place"));
    }
  }
  GANTRY_RETURN_IF_ERROR(SyncPath(fs::path(options.data_dir + "/" + kBackupDatabase).parent_path().string()));
  report.files = std::move(names);
  return report;
}

}  // namespace gantry::billing
