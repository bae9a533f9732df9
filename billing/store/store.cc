#include "billing/store/store.h"

#include <sqlite3.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "billing/store/changes.h"
#include "billing/store/lineage.h"
#include "engine/base/status_macros.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

using SteadyClock = std::chrono::steady_clock;

// A step of an online copy is 64 pages (256 KiB) while commands wait, some tenths of a millisecond.
constexpr int kCopyPagesBusy = 64;
constexpr int kCopyPagesIdle = 1024;
// Queries younger than this are not ended for the log's sake, and after as long it is looked again.
constexpr std::chrono::milliseconds kQueryGrace{200};
// How long commits wait for the ended ones.
constexpr std::chrono::milliseconds kRestartWait{50};

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

std::string Cure(const absl::Status& why, const std::string& path) {
  if (absl::IsResourceExhausted(why)) return absl::StrCat("make room on the disk of ", path);
  if (absl::IsUnavailable(why)) return absl::StrCat("end the program that has ", path, " open");
  return absl::StrCat("look after the disk of ", path, " (dmesg, smartctl), restore a backup if it is broken");
}

void WarnWhenOnTheSameDisk(const std::string& path, const std::string& command_log) {
  struct stat books = {}, log = {};
  if (stat(path.c_str(), &books) == 0 && stat(command_log.c_str(), &log) == 0 && books.st_dev == log.st_dev) {
    Log(LogLevel::kWarning, "the command log is on the same disk as the books and would be lost with it",
        {{"path", path}, {"command_log", command_log}});
  }
}

}  // namespace

// ---- opening ----

absl::StatusOr<std::unique_ptr<Store>> Store::Open(Options options) {
  if (!options.clock) options.clock = SystemClock();
  std::unique_ptr<Store> store(new Store(std::move(options)));
  const Options& o = store->options_;
  GANTRY_ASSIGN_OR_RETURN(store->writer_, Database::Open(o.path, Database::Mode::kWriter, o.vfs));
  Database& writer = *store->writer_;
  Log(LogLevel::kInfo, "the books are open",
      {{"path", o.path}, {"sqlite", sqlite3_libversion()}, {"journal", "wal"}, {"synchronous", "full"}});
  const auto named = [&](const absl::Status& status) {
    return status.ok() ? status : absl::Status(status.code(), absl::StrCat(o.path, ": ", status.message()));
  };
  // Whatever a crash left in the log goes into the database file, synced, before anything is built on it.
  GANTRY_RETURN_IF_ERROR(named(writer.Checkpoint(true, std::chrono::milliseconds(1000)).status()));
  if (o.vfs == nullptr) {
    // SQLite syncs the directory for a new log and does not look whether that worked.
    GANTRY_RETURN_IF_ERROR(PosixFileSystem()->SyncDirectory(std::filesystem::absolute(o.path).parent_path().string()));
  }
  GANTRY_RETURN_IF_ERROR(named(store->OpenLog()));
  for (int i = 0; i < o.readers; ++i) {
    auto reader = std::make_unique<Reader>();
    GANTRY_ASSIGN_OR_RETURN(reader->database, Database::Open(o.path, Database::Mode::kReader, o.vfs));
    store->readers_.push_back(std::move(reader));
  }
  Store* raw = store.get();
  store->writer_thread_ = std::thread([raw] { raw->WriterLoop(); });
  for (auto& reader : store->readers_) {
    reader->thread = std::thread([raw, r = reader.get()] { raw->ReaderLoop(r); });
  }
  return store;
}

// Schema and command log, in the order in which they depend on each other: what only the log has belongs to the schema
// from before this start.
absl::Status Store::OpenLog() {
  Database& writer = *writer_;
  const std::string& directory = options_.command_log;
  GANTRY_ASSIGN_OR_RETURN(bool has_lineage, HasLineage(writer));
  if (has_lineage && !directory.empty()) GANTRY_RETURN_IF_ERROR(CatchUp(directory));
  GANTRY_RETURN_IF_ERROR(ApplySchema(writer, options_.path, options_.migrations));
  GANTRY_ASSIGN_OR_RETURN(has_lineage, HasLineage(writer));
  if (!has_lineage) {
    if (directory.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError("these books cannot have a command log");
  }
  GANTRY_ASSIGN_OR_RETURN(Lineage lineage, ReadLineage(writer));
  GANTRY_ASSIGN_OR_RETURN(const int64_t schema, SchemaVersion(writer));
  position_ = lineage.position;
  if (directory.empty()) {
    if (!lineage.logged) return absl::OkStatus();
    Log(LogLevel::kWarning, "the books have had a command log until now and go on without", {{"path", options_.path}});
    writer.Execute("UPDATE lineage SET logged = 0, sequence = sequence + 1");
    ++position_.sequence;
    return writer.TakeError();
  }
  GANTRY_RETURN_IF_ERROR(CheckRecordable(writer));
  // A number that no record has keeps older backups from being completed with what follows.
  if (!lineage.logged) ++position_.sequence;
  GANTRY_ASSIGN_OR_RETURN(
      log_,
      CommandLog::Open({.file_system = options_.file_system, .directory = directory, .books_id = lineage.books_id},
                       position_));
  WarnWhenOnTheSameDisk(options_.path, directory);
  if (!lineage.logged) {
    writer.Execute("UPDATE lineage SET logged = 1, sequence = ?, logged_schema = ?", position_.sequence, schema);
    GANTRY_RETURN_IF_ERROR(writer.TakeError());
    Log(LogLevel::kInfo, "the command log begins: make a backup now, older ones cannot be completed from it",
        {{"command_log", directory}});
    return absl::OkStatus();
  }
  if (lineage.logged_schema == schema) return absl::OkStatus();
  LogRecord record;
  record.position = {position_.epoch, position_.sequence + 1};
  record.type = LogRecord::kSchema;
  record.time_us = options_.clock();
  record.body = absl::StrCat(schema);
  GANTRY_RETURN_IF_ERROR(log_->Append(record));
  ++position_.sequence;
  writer.Execute("UPDATE lineage SET logged_schema = ?, sequence = ?", schema, position_.sequence);
  return writer.TakeError();
}

// Applies what the command log has and the books have not: the group whose commit a crash cut off, or more when the
// books' disk lied about its syncs.
absl::Status Store::CatchUp(const std::string& directory) {
  Database& writer = *writer_;
  GANTRY_ASSIGN_OR_RETURN(const Lineage lineage, ReadLineage(writer));
  if (!lineage.logged) return absl::OkStatus();
  GANTRY_ASSIGN_OR_RETURN(CommandLogReader log,
                          CommandLogReader::Open(options_.file_system, directory, lineage.books_id));
  if (log.newest_epoch() > lineage.position.epoch) {
    return absl::FailedPreconditionError(absl::StrCat("the command log in ", directory, " is at epoch ",
                                                      log.newest_epoch(), ", the books are at ", lineage.position.epoch,
                                                      ": they were restored elsewhere since; use the restored books"));
  }
  BooksPosition end;
  int64_t records = 0;
  GANTRY_RETURN_IF_ERROR(log.Replay(
      lineage.position,
      [&](const LogRecord& record) {
        ++records;
        return ApplyRecord(writer, options_.path, options_.migrations, record);
      },
      &end));
  if (records > 0) {
    Log(LogLevel::kWarning, "the command log was ahead of the books: applied",
        {{"records", records}, {"sequence", end.sequence}});
  }
  const absl::StatusOr<LogRecord> last = log.Last(lineage.position.epoch);
  if (!last.ok() && !absl::IsNotFound(last.status())) return last.status();
  if (!last.ok() || last->position != end) {
    return absl::FailedPreconditionError(
        absl::StrCat("the command log in ", directory, " ends at ", last.ok() ? last->position.sequence : 0,
                     ", the books are at ", end.sequence, " of epoch ", end.epoch,
                     ": it is not complete. Give the directory that these books used, or start ",
                     "once without a command log, then make a backup"));
  }
  return absl::OkStatus();
}

Store::~Store() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  write_wake_.notify_all();
  read_wake_.notify_all();
  if (writer_thread_.joinable()) writer_thread_.join();
  if (copy_finisher_.joinable()) copy_finisher_.join();
  for (auto& reader : readers_) {
    if (reader->thread.joinable()) reader->thread.join();
  }
  // Before the writer, which checkpoints when it is the last to close.
  readers_.clear();
  if (writer_ != nullptr && !WriteHealth().ok()) {
    sqlite3_db_config(writer_->handle(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
  }
}

// ---- the queues ----

void Store::Write(Command command, Done done) {
  Enqueue({std::move(command), std::move(done)});
}

void Store::WriteKeeping(Command command, Done done) {
  Enqueue({std::move(command), std::move(done), /*keeps=*/true});
}

void Store::Enqueue(Job job) {
  {
    std::lock_guard lock(mutex_);
    if (!stopping_ && writes_.size() < options_.queue_limit) {
      writes_.push_back(std::move(job));
      write_wake_.notify_one();
      return;
    }
  }
  job.done(absl::ResourceExhaustedError("billing has too much to write; try again"));
}

void Store::Read(Command query, Done done) {
  ReadFor(options_.read_limit, std::move(query), std::move(done));
}

void Store::ReadFor(std::chrono::milliseconds limit, Command query, Done done) {
  {
    std::lock_guard lock(mutex_);
    if (!stopping_ && reads_.size() < options_.queue_limit) {
      reads_.emplace_back(limit, Job{std::move(query), std::move(done)});
      read_wake_.notify_one();
      return;
    }
  }
  done(absl::ResourceExhaustedError("billing has too many queries waiting; try again"));
}

void Store::Copy(std::string path, Done done) {
  {
    std::lock_guard lock(mutex_);
    if (!stopping_ && !no_copies_) {
      copies_.push_back({std::move(path), std::move(done), nullptr});
      write_wake_.notify_one();
      return;
    }
  }
  done(absl::CancelledError("billing is stopping"));
}

namespace {

// Calls `submit` with a `done` and waits for it.
absl::Status Await(const std::function<void(Store::Done)>& submit) {
  absl::Notification over;
  absl::Status result;
  submit([&](absl::Status status) {
    result = std::move(status);
    over.Notify();
  });
  over.WaitForNotification();
  return result;
}

}  // namespace

absl::Status Store::WriteAndWait(Command command) {
  return Await([&](Done done) { Write(std::move(command), std::move(done)); });
}
absl::Status Store::ReadAndWait(Command query) {
  return Await([&](Done done) { Read(std::move(query), std::move(done)); });
}
absl::Status Store::CopyAndWait(std::string path) {
  return Await([&](Done done) { Copy(std::move(path), std::move(done)); });
}

void Store::CancelCopies() {
  std::lock_guard lock(mutex_);
  no_copies_ = true;
}

absl::Status Store::PruneCommandLog(const BooksPosition& covered) {
  if (options_.command_log.empty()) return absl::OkStatus();
  return CommandLog::Prune(options_.file_system, options_.command_log, covered);
}

absl::Status Store::WriteHealth() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

StoreStats Store::Stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

// ---- the writer ----

void Store::WriterLoop() {
  for (;;) {
    bool failed = false;
    {
      std::unique_lock lock(mutex_);
      write_wake_.wait(lock, [this] { return stopping_ || !writes_.empty() || !taken_.empty() || !copies_.empty(); });
      if (stopping_ && writes_.empty() && taken_.empty()) break;
      while (!writes_.empty() && taken_.size() < options_.group_commands) {
        taken_.push_back(std::move(writes_.front()));
        writes_.pop_front();
      }
      failed = !failure_.ok();
      somebody_waits_ = false;
    }
    if (failed) {
      Refuse();
    } else if (!taken_.empty()) {
      Commit();
    }
    if (WriteHealth().ok()) Checkpoint();
    StepCopy();
  }
  FinishCopy(absl::CancelledError("billing is stopping"));
}

void Store::Refuse() {
  const absl::Status why = WriteHealth();
  for (Job& job : taken_) job.done(why);
  taken_.clear();
}

// From here on nothing is written.
void Store::Fail(const absl::Status& why, bool unknown) {
  const bool log_failed = absl::StartsWith(why.message(), "the command log");
  absl::Status refusal = absl::UnavailableError(
      absl::StrCat("billing cannot write: ", why.message(), "; nothing is acknowledged until then: ",
                   Cure(why, log_failed ? options_.command_log : options_.path), ", then restart gantry-billing"));
  {
    std::lock_guard lock(mutex_);
    if (!failure_.ok()) return;
    failure_ = refusal;
  }
  Log(LogLevel::kError, "the books cannot be written any more", {{"error", refusal.message()}, {"unknown", unknown}});
}

void Store::Commit() {
  const auto start = SteadyClock::now();
  std::vector<Job> group;
  std::vector<absl::Status> results;
  bool disk = false, unknown = false;
  absl::Status committed = RunGroup(&results, &group, &disk, &unknown);
  if (!committed.ok()) {
    if (disk) Fail(committed, unknown);
    if (unknown) {
      // A failed fsync may have dropped pages that the kernel now calls clean: never try again on them.
      if (!options_.on_fatal) std::abort();
      options_.on_fatal(committed);
    }
    const absl::Status answer = disk ? WriteHealth() : absl::UnavailableError(committed.message());
    for (Job& job : group) job.done(answer);
    return;
  }
  const double seconds = SecondsSince(start);
  {
    std::lock_guard lock(mutex_);
    ++stats_.commits;
    stats_.commands += static_cast<int64_t>(group.size());
    stats_.longest_commit_s = std::max(stats_.longest_commit_s, seconds);
    stats_.wal_frames = writer_->wal_frames();
    stats_.wal_frames_most = std::max(stats_.wal_frames_most, stats_.wal_frames);
    if (log_ != nullptr) stats_.log_bytes = log_->bytes_written();
    somebody_waits_ = !writes_.empty() || !taken_.empty();
  }
  if (options_.on_commit) options_.on_commit(seconds, static_cast<int>(group.size()));
  for (size_t i = 0; i < group.size(); ++i) group[i].done(std::move(results[i]));
}

// Runs commands of taken_ and commits them. An error: nothing of the group counts; *disk: the files are to blame,
// *unknown: and the disk may hold the group all the same.
absl::Status Store::RunGroup(std::vector<absl::Status>* results, std::vector<Job>* group, bool* disk, bool* unknown) {
  const auto until =
      SteadyClock::now() + std::clamp<SteadyClock::duration>(4 * last_sync_, options_.group_time,
                                                             std::max(options_.group_time, options_.group_time_max));
  Database& db = *writer_;
  const auto undo = [&](absl::Status why) {
    // Those that were not tried yet share the fate of the group when the files are to blame, else they wait.
    if (db.InTransaction()) db.Script("ROLLBACK");
    db.TakeError().IgnoreError();
    db.Forget();
    return why;
  };
  db.Script("BEGIN IMMEDIATE");
  absl::Status begun = db.TakeError(disk);
  std::unique_ptr<ChangeRecorder> recorder;
  if (begun.ok() && log_ != nullptr) {
    absl::StatusOr<std::unique_ptr<ChangeRecorder>> made = ChangeRecorder::Start(db);
    begun = made.status();
    if (made.ok()) recorder = *std::move(made);
  }
  if (!begun.ok()) {
    group->assign(std::make_move_iterator(taken_.begin()), std::make_move_iterator(taken_.end()));
    taken_.clear();
    return undo(begun);
  }
  while (!taken_.empty() && (group->empty() || SteadyClock::now() < until)) {
    group->push_back(std::move(taken_.front()));
    taken_.pop_front();
    db.Script("SAVEPOINT command");
    db.SetKeeps(group->back().keeps);
    absl::Status status = group->back().run(db);
    db.SetKeeps(false);
    absl::Status error = db.TakeError(disk);
    if (!error.ok()) {
      Log(LogLevel::kError, "a command failed in the database", {{"error", error.message()}});
      status = error;
    }
    if (*disk) return undo(status);
    if (!db.InTransaction()) {
      // Nothing of the group has been written.
      return undo(status.ok() ? absl::UnavailableError("the database rolled the transaction back") : status);
    }
    if (!status.ok()) db.Script("ROLLBACK TO command");
    if (!status.ok() || !group->back().keeps) db.Forget();
    db.Script("RELEASE command");
    absl::Status released = db.TakeError(disk);
    if (!released.ok()) return undo(released);
    results->push_back(std::move(status));
  }
  if (recorder != nullptr && !recorder->empty()) {
    const int64_t sequence = position_.sequence + 1;
    db.Execute("UPDATE lineage SET sequence = ?", sequence);
    absl::Status counted = db.TakeError(disk);
    if (!counted.ok()) return undo(counted);
    absl::StatusOr<std::string> changes = recorder->Changes();
    recorder.reset();
    if (!changes.ok()) return undo(changes.status());
    absl::Status logged = LogGroup(sequence, *std::move(changes), unknown);
    if (!logged.ok()) {
      *disk = true;
      return undo(logged);
    }
    position_.sequence = sequence;
  }
  recorder.reset();
  const auto commit_start = SteadyClock::now();
  db.Script("COMMIT");
  last_sync_ = SteadyClock::now() - commit_start;
  absl::Status committed = db.TakeError(disk);
  if (committed.ok()) return absl::OkStatus();
  *disk = true;
  // A full disk stops the group's last frame, which makes it count, from being written; a lock stops all of it. Any
  // other error may come after that frame. With a command log the group is there already and comes back at the next
  // start.
  *unknown = log_ != nullptr || !(absl::IsResourceExhausted(committed) || absl::IsUnavailable(committed));
  return undo(committed);
}

absl::Status Store::LogGroup(int64_t sequence, std::string changes, bool* unknown) {
  LogRecord record;
  record.position = {position_.epoch, sequence};
  record.type = LogRecord::kChanges;
  record.time_us = options_.clock();
  record.body = std::move(changes);
  absl::Status logged = log_->Append(record);
  *unknown = !logged.ok() && log_->uncertain();
  return logged;
}

// ---- between groups ----

void Store::Checkpoint() {
  const int frames = writer_->wal_frames();
  if (frames < checkpointed_frames_) checkpointed_frames_ = 0;  // the log began anew
  const int due = options_.checkpoint_frames * (somebody_waits_ ? 4 : 1);
  if (frames - checkpointed_frames_ < due && frames <= options_.wal_frames_max) return;
  const auto start = SteadyClock::now();
  absl::StatusOr<WalFrames> done;
  if (frames > options_.wal_frames_max) {
    // Only somebody who still reads an old state keeps the log from beginning anew.
    if (start < next_restart_) return;
    next_restart_ = start + kQueryGrace;
    EndQueriesThatHoldTheLogBack();
    done = writer_->Checkpoint(true, kRestartWait);
    if (absl::IsUnavailable(done.status())) return;
  } else {
    done = writer_->Checkpoint();
  }
  if (!done.ok()) {
    // Whatever was acknowledged is in the log; only nothing can be added to it for ever.
    Fail(done.status(), false);
    return;
  }
  checkpointed_frames_ = writer_->wal_frames() == 0 ? 0 : done->checkpointed;
  std::lock_guard lock(mutex_);
  ++stats_.checkpoints;
  stats_.longest_checkpoint_s = std::max(stats_.longest_checkpoint_s, SecondsSince(start));
  stats_.wal_frames = writer_->wal_frames();
}

void Store::EndQueriesThatHoldTheLogBack() {
  const auto old = SteadyClock::now() - kQueryGrace;
  std::lock_guard lock(mutex_);
  for (auto& reader : readers_) {
    if (reader->since < old) reader->database->Interrupt();
  }
}

void Store::StepCopy() {
  CopyJob* job = nullptr;
  bool cancelled = false;
  {
    std::lock_guard lock(mutex_);
    if (copies_.empty()) return;
    cancelled = no_copies_;
    job = &copies_.front();  // a deque's elements stay where they are while others are added
  }
  if (cancelled) return FinishCopy(absl::CancelledError("billing is stopping"));
  if (job->copy == nullptr) {
    absl::StatusOr<std::unique_ptr<OnlineCopy>> copy = OnlineCopy::Start(*writer_, job->path);
    if (!copy.ok()) return FinishCopy(copy.status());
    job->copy = *std::move(copy);
  }
  absl::StatusOr<bool> complete = job->copy->Step(somebody_waits_ ? kCopyPagesBusy : kCopyPagesIdle);
  if (!complete.ok()) return FinishCopy(complete.status());
  if (*complete) FinishCopy(absl::OkStatus());
}

// Ends the first copy, or all of them when the store stops. Syncing takes as long as the disk likes: not here.
void Store::FinishCopy(absl::Status status) {
  std::deque<CopyJob> over;
  {
    std::lock_guard lock(mutex_);
    while (!copies_.empty() && (over.empty() || absl::IsCancelled(status))) {
      over.push_back(std::move(copies_.front()));
      copies_.pop_front();
    }
  }
  if (over.empty()) return;
  if (copy_finisher_.joinable()) copy_finisher_.join();
  copy_finisher_ = std::thread([status, over = std::make_shared<std::deque<CopyJob>>(std::move(over))] {
    for (CopyJob& job : *over) {
      absl::Status finished = status.ok() ? job.copy->Finish() : status;
      job.copy.reset();
      job.done(finished);
    }
  });
}

// ---- the readers ----

void Store::ReaderLoop(Reader* reader) {
  Database* database = reader->database.get();
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      read_wake_.wait(lock, [this] { return stopping_ || !reads_.empty(); });
      if (reads_.empty()) return;
      const auto now = SteadyClock::now();
      reader->since = now;
      database->SetDeadline(now + reads_.front().first);
      job = std::move(reads_.front().second);
      reads_.pop_front();
    }
    database->Script("BEGIN");
    absl::Status status = job.run(*database);
    absl::Status error = database->TakeError();
    {
      std::lock_guard lock(mutex_);
      database->ClearDeadline();
      reader->since = SteadyClock::time_point::max();
      if (absl::IsDeadlineExceeded(error)) ++stats_.queries_ended;
    }
    database->Script("ROLLBACK");
    database->TakeError().IgnoreError();
    job.done(error.ok() ? status : error);
  }
}

}  // namespace gantry::billing
