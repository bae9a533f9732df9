// Who writes and who reads.
//
// Commands change the books. They run one after the other on one thread, each in a savepoint of its own: an error
// undoes that command alone. What is queued is committed together, and `done` is called after the commit is durable, so
// an OK is a promise. A group takes up to 512 commands or 5 ms of work; on a slow disk four times as much work as the
// last commit took, at most 20 ms, so that most of the time goes into work. With a command log the group's row changes
// are synced there before the commit.
//
// When the files cannot be written (full disk, I/O error, somebody else's lock) nothing of the group is acknowledged,
// and no write is tried again until the store is opened anew: later commands get UNAVAILABLE with the reason and the
// cure, queries go on. When a commit failed so that nobody knows whether the disk holds it, `on_fatal` is told as well.
//
// Queries see the last commit, on threads and connections of their own that cannot write. Each is limited in time,
// because the write-ahead log cannot begin anew while an old state is being read.
//
// Between groups, on the writer's thread and nowhere else (rule R13): checkpoints and steps of online copies.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "billing/store/clock.h"
#include "billing/store/command_log.h"
#include "billing/store/database.h"
#include "billing/store/online_copy.h"
#include "billing/store/schema.h"

namespace gantry::billing {

// Since the store was opened.
struct StoreStats {
  int64_t commits = 0;
  int64_t commands = 0;
  double longest_commit_s = 0;  // from the group's first command to durable
  int wal_frames = 0;           // 4 KiB each; now
  int wal_frames_most = 0;
  int64_t checkpoints = 0;
  double longest_checkpoint_s = 0;
  int64_t queries_ended = 0;  // because they took too long or held the log back
  int64_t log_bytes = 0;      // written to the command log
};

class Store {
 public:
  struct Options {
    std::string path;                                       // gantry.db
    int readers = 2;                                        // threads
    size_t queue_limit = 65'536;                            // commands and queries that may wait, each
    size_t group_commands = 512;                            // of one commit, at most
    std::chrono::microseconds group_time{5'000};            // a group takes no further command after it
    std::chrono::microseconds group_time_max{20'000};       // the same, on a slow disk
    std::chrono::milliseconds read_limit{30'000};           // of a query
    int checkpoint_frames = 1'000;                          // four times as many while commands wait
    int wal_frames_max = 65'536;                            // 256 MiB: beyond, queries that hold it back are ended
    std::string command_log;                                // directory, on another disk; empty: none
    FileSystem* file_system = PosixFileSystem();            // of the command log
    const char* vfs = nullptr;                              // see Database::Open
    absl::Span<const Migration> migrations = Migrations();  // outlive the store
    Clock clock;                                            // for the command log; null: the system's
    std::function<void(double seconds, int commands)> on_commit;  // null: nobody measures
    // A commit failed and what the disk holds is unknown: the process must end and recover from it. Null: abort.
    std::function<void(absl::Status)> on_fatal;
  };
  // Opens or creates the database, brings its schema up to date and applies what only the command log has. Errors of
  // Database::Open; FAILED_PRECONDITION when the file was written by a newer version, or the command log is not that of
  // the books or lacks a part.
  static absl::StatusOr<std::unique_ptr<Store>> Open(Options options);
  // Runs what is queued, then closes.
  ~Store();

  using Command = std::function<absl::Status(Database&)>;
  using Done = std::function<void(absl::Status)>;

  // `done` runs on the writer's thread and must not block; RESOURCE_EXHAUSTED at once, from inside the call, when the
  // queue is full. UNAVAILABLE: the files cannot be written.
  void Write(Command command, Done done);
  // The same for a command that keeps what it reads for the next one (Database::Kept): it changes parties, keys, plans,
  // months, accounts and lots through what it keeps, or not at all.
  void WriteKeeping(Command command, Done done);
  // Write, waiting for it. Not from `done` or a command.
  absl::Status WriteAndWait(Command command);

  // Runs in a read transaction of at most Options::read_limit, else DEADLINE_EXCEEDED; `done` on the reader's thread.
  void Read(Command query, Done done);
  void ReadFor(std::chrono::milliseconds limit, Command query, Done done);
  absl::Status ReadAndWait(Command query);

  // A complete, synced copy of the books at some moment between the call and `done`, while commands go on; one after
  // the other. `done` on a thread of its own. CANCELLED when the store closes first.
  void Copy(std::string path, Done done);
  absl::Status CopyAndWait(std::string path);
  // Ends copies that are being made and refuses others: the process is about to stop.
  void CancelCopies();
  // Removes what the command log holds up to `covered`: a backup has it. Nothing without a command log.
  absl::Status PruneCommandLog(const BooksPosition& covered);

  // OK, or why nothing can be written any more.
  absl::Status WriteHealth() const;
  StoreStats Stats() const;

 private:
  struct Job {
    Command run;
    Done done;
    bool keeps = false;
  };
  struct CopyJob {
    std::string path;
    Done done;
    std::unique_ptr<OnlineCopy> copy;
  };
  struct Reader {
    std::unique_ptr<Database> database;
    std::chrono::steady_clock::time_point since = std::chrono::steady_clock::time_point::max();  // guarded by mutex_
    std::thread thread;
  };
  explicit Store(Options options) : options_(std::move(options)) {}
  absl::Status OpenLog();
  absl::Status CatchUp(const std::string& directory);
  void Enqueue(Job job);
  void WriterLoop();
  void ReaderLoop(Reader* reader);
  void Commit();
  absl::Status RunGroup(std::vector<absl::Status>* results, std::vector<Job>* group, bool* disk, bool* unknown);
  absl::Status LogGroup(int64_t sequence, std::string changes, bool* unknown);
  void Fail(const absl::Status& why, bool unknown);
  void Refuse();
  void Checkpoint();
  void EndQueriesThatHoldTheLogBack();
  void StepCopy();
  void FinishCopy(absl::Status status);

  const Options options_;
  // The writer's thread alone.
  std::unique_ptr<Database> writer_;
  std::unique_ptr<CommandLog> log_;
  BooksPosition position_;
  std::chrono::steady_clock::duration last_sync_{0};  // of a commit
  bool somebody_waits_ = false;                       // after the group that was just committed
  int checkpointed_frames_ = 0;
  std::chrono::steady_clock::time_point next_restart_{};
  std::deque<Job> taken_;
  std::thread copy_finisher_;

  std::vector<std::unique_ptr<Reader>> readers_;
  mutable std::mutex mutex_;
  std::condition_variable write_wake_, read_wake_;
  std::deque<Job> writes_;                                       // guarded by mutex_
  std::deque<std::pair<std::chrono::milliseconds, Job>> reads_;  // guarded by mutex_
  std::deque<CopyJob> copies_;                                   // guarded by mutex_
  absl::Status failure_;                                         // guarded by mutex_
  StoreStats stats_;                                             // guarded by mutex_
  bool stopping_ = false;                                        // guarded by mutex_
  bool no_copies_ = false;                                       // guarded by mutex_
  std::thread writer_thread_;
};

}  // namespace gantry::billing
