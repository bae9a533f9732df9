// Who writes and who reads.
//
// Commands change the books. They run one after the other on one thread, each in a savepoint of its own: an error
// undoes that command alone. What is queued is committed together (one fsync for up to 512 commands), and `done` is
// called after the commit is durable, so an OK is a promise.
//
// Queries see the last commit, on threads and connections of their own that cannot write.
#pragma once

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
#include "billing/store/database.h"

namespace gantry::billing {

class Store {
 public:
  struct Options {
    std::string path;                                             // gantry.db
    int readers = 2;                                              // threads
    size_t queue_limit = 65'536;                                  // commands and queries that may wait, each
    std::function<void(double seconds, int commands)> on_commit;  // null: nobody measures
    // A commit failed: what the disk holds is unknown, the process must end and recover from it. Null: abort.
    std::function<void(absl::Status)> on_fatal;
  };
  // Opens or creates the database and brings its schema up to date. Errors of Database::Open; FAILED_PRECONDITION when
  // the file was written by a newer version.
  static absl::StatusOr<std::unique_ptr<Store>> Open(Options options);
  // Runs what is queued, then closes.
  ~Store();

  using Command = std::function<absl::Status(Database&)>;
  using Done = std::function<void(absl::Status)>;

  // `done` runs on the writer's thread and must not block; RESOURCE_EXHAUSTED at once, from inside the call, when the
  // queue is full.
  void Write(Command command, Done done);
  // The same, waiting for it. Not from `done` or a command.
  absl::Status WriteAndWait(Command command);

  // Runs in a read transaction; `done` on the reader's thread.
  void Read(Command query, Done done);
  absl::Status ReadAndWait(Command query);

 private:
  struct Job {
    Command run;
    Done done;
  };
  explicit Store(Options options) : options_(std::move(options)) {}
  void WriterLoop();
  void ReaderLoop(Database* database);
  bool Commit(std::vector<Job>* group);

  const Options options_;
  std::unique_ptr<Database> writer_;
  std::vector<std::unique_ptr<Database>> readers_;
  std::mutex mutex_;
  std::condition_variable write_wake_, read_wake_;
  std::deque<Job> writes_;  // guarded by mutex_
  std::deque<Job> reads_;   // guarded by mutex_
  bool stopping_ = false;   // guarded by mutex_
  std::thread writer_thread_;
  std::vector<std::thread> reader_threads_;
};

}  // namespace gantry::billing
