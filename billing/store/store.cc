#include "billing/store/store.h"

#include <chrono>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "billing/store/schema.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

constexpr size_t kGroupLimit = 512;

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> Store::Open(Options options) {
  std::unique_ptr<Store> store(new Store(std::move(options)));
  absl::StatusOr<std::unique_ptr<Database>> writer = Database::Open(store->options_.path, Database::Mode::kWriter);
  if (!writer.ok()) return writer.status();
  store->writer_ = *std::move(writer);
  absl::Status schema = ApplySchema(*store->writer_, store->options_.path);
  if (!schema.ok()) return absl::Status(schema.code(), absl::StrCat(store->options_.path, ": ", schema.message()));
  for (int i = 0; i < store->options_.readers; ++i) {
    absl::StatusOr<std::unique_ptr<Database>> reader = Database::Open(store->options_.path, Database::Mode::kReader);
    if (!reader.ok()) return reader.status();
    store->readers_.push_back(*std::move(reader));
  }
  Store* raw = store.get();
  store->writer_thread_ = std::thread([raw] { raw->WriterLoop(); });
  for (auto& reader : store->readers_) {
    store->reader_threads_.emplace_back([raw, database = reader.get()] { raw->ReaderLoop(database); });
  }
  return store;
}

Store::~Store() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  write_wake_.notify_all();
  read_wake_.notify_all();
  if (writer_thread_.joinable()) writer_thread_.join();
  for (std::thread& thread : reader_threads_) thread.join();
  // Before the writer, which checkpoints when it is the last to close.
  readers_.clear();
}

void Store::Write(Command command, Done done) {
  {
    std::lock_guard lock(mutex_);
    if (!stopping_ && writes_.size() < options_.queue_limit) {
      writes_.push_back({std::move(command), std::move(done)});
      write_wake_.notify_one();
      return;
    }
  }
  done(absl::ResourceExhaustedError("billing has too much to write; try again"));
}

void Store::Read(Command query, Done done) {
  {
    std::lock_guard lock(mutex_);
    if (!stopping_ && reads_.size() < options_.queue_limit) {
      reads_.push_back({std::move(query), std::move(done)});
      read_wake_.notify_one();
      return;
    }
  }
  done(absl::ResourceExhaustedError("billing has too many queries waiting; try again"));
}

absl::Status Store::WriteAndWait(Command command) {
  absl::Notification over;
  absl::Status result;
  Write(std::move(command), [&](absl::Status status) {
    result = std::move(status);
    over.Notify();
  });
  over.WaitForNotification();
  return result;
}

absl::Status Store::ReadAndWait(Command query) {
  absl::Notification over;
  absl::Status result;
  Read(std::move(query), [&](absl::Status status) {
    result = std::move(status);
    over.Notify();
  });
  over.WaitForNotification();
  return result;
}

void Store::WriterLoop() {
  for (;;) {
    std::vector<Job> group;
    {
      std::unique_lock lock(mutex_);
      write_wake_.wait(lock, [this] { return stopping_ || !writes_.empty(); });
      if (writes_.empty()) return;
      while (!writes_.empty() && group.size() < kGroupLimit) {
        group.push_back(std::move(writes_.front()));
        writes_.pop_front();
      }
    }
    if (!Commit(&group)) return;
  }
}

bool Store::Commit(std::vector<Job>* group) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<absl::Status> results(group->size());
  writer_->Script("BEGIN IMMEDIATE");
  absl::Status begun = writer_->TakeError();
  if (!begun.ok()) {
    for (Job& job : *group) job.done(absl::UnavailableError(begun.message()));
    return true;
  }
  for (size_t i = 0; i < group->size(); ++i) {
    writer_->Script("SAVEPOINT command");
    absl::Status status = (*group)[i].run(*writer_);
    absl::Status error = writer_->TakeError();
    if (!error.ok()) {
      Log(LogLevel::kError, "a command failed in the database", {{"error", error.message()}});
      status = error;
    }
    if (!writer_->InTransaction()) {
      // Nothing of the group has been written.
      absl::Status why = status.ok() ? absl::UnavailableError("the database rolled the transaction back") : status;
      for (Job& job : *group) job.done(why);
      return true;
    }
    if (!status.ok()) writer_->Script("ROLLBACK TO command");
    writer_->Script("RELEASE command");
    results[i] = std::move(status);
  }
  writer_->Script("COMMIT");
  absl::Status committed = writer_->TakeError();
  if (!committed.ok()) {
    // A failed fsync may have dropped pages that the kernel now calls clean: never try again on them.
    Log(LogLevel::kError, "commit failed", {{"error", committed.message()}});
    for (Job& job : *group) job.done(absl::UnavailableError(absl::StrCat("commit failed: ", committed.message())));
    if (!options_.on_fatal) std::abort();
    options_.on_fatal(committed);
    return false;
  }
  if (options_.on_commit) {
    options_.on_commit(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
                       static_cast<int>(group->size()));
  }
  for (size_t i = 0; i < group->size(); ++i) (*group)[i].done(std::move(results[i]));
  return true;
}

void Store::ReaderLoop(Database* database) {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      read_wake_.wait(lock, [this] { return stopping_ || !reads_.empty(); });
      if (reads_.empty()) return;
      job = std::move(reads_.front());
      reads_.pop_front();
    }
    database->Script("BEGIN");
    absl::Status status = job.run(*database);
    absl::Status error = database->TakeError();
    database->Script("ROLLBACK");
    database->TakeError().IgnoreError();
    job.done(error.ok() ? status : error);
  }
}

}  // namespace gantry::billing
