#include "billing/receipt/receipt_desk.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/log.h"

namespace gantry::billing {

ReceiptDesk::ReceiptDesk(Options options)
    : options_(std::move(options)), deriver_(options_.deriver), thread_([this] { Loop(); }) {}

ReceiptDesk::~ReceiptDesk() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
  for (Job& job : jobs_) job.done(absl::UnavailableError("billing is stopping"));
}

void ReceiptDesk::Ask(const Id16& request_id, const Id16& buyer, bool with_proof, absl::Time deadline, Done done) {
  {
    absl::MutexLock lock(&mutex_);
    if (jobs_.size() < options_.queue_limit && !stopping_) {
      jobs_.push_back({request_id, buyer, with_proof, deadline, std::move(done)});
      return;
    }
  }
  done(absl::ResourceExhaustedError(
      absl::StrCat(options_.queue_limit, " callers wait for receipts already; try again")));
}

void ReceiptDesk::Loop() {
  absl::Time next_look = absl::Now() + options_.look_every;
  for (;;) {
    Job job;
    bool has_job = false;
    {
      absl::MutexLock lock(&mutex_);
      const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !jobs_.empty(); };
      mutex_.AwaitWithDeadline(absl::Condition(&wanted), next_look);
      if (stopping_) return;
      if (!jobs_.empty()) {
        job = std::move(jobs_.front());
        jobs_.pop_front();
        has_job = true;
      }
    }
    if (has_job) {
      used_ = true;
      job.done(deriver_.Documents(job.request_id, job.buyer, job.with_proof,
                                  [&] { return stopping() || absl::Now() >= job.deadline; }));
    }
    if (absl::Now() >= next_look) {
      Look();
      next_look = absl::Now() + options_.look_every;
    }
  }
}

void ReceiptDesk::Look() {
  const absl::StatusOr<int> closed = deriver_.CloseRoots([this] { return stopping(); });
  if (!closed.ok() && !stopping()) {
    Log(LogLevel::kError, "a root of receipts cannot be closed", {{"error", closed.status().message()}});
  }
  // What an hour of questions has gathered is not kept for the days without any.
  if (!std::exchange(used_, false)) deriver_.DropCaches();
}

}  // namespace gantry::billing
