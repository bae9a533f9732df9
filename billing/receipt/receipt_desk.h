// The thread that makes receipts, so that neither the store's threads nor those of RPC wait for long chains: requests
// in order, and once a minute the roots that are due.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "billing/receipt/derive.h"

namespace gantry::billing {

// Thread-safe.
class ReceiptDesk {
 public:
  struct Options {
    ReceiptDeriver::Options deriver;
    absl::Duration look_every = absl::Minutes(1);  // for due roots
    size_t queue_limit = 64;
  };
  explicit ReceiptDesk(Options options);
  // Ends what runs, answers UNAVAILABLE to what waits.
  ~ReceiptDesk();

  using Done = std::function<void(absl::StatusOr<std::vector<std::string>>)>;
  // ReceiptDeriver::Documents; `done` on the desk's thread, or with RESOURCE_EXHAUSTED inside the call when too many
  // wait.
  void Ask(const Id16& request_id, const Id16& buyer, bool with_proof, absl::Time deadline, Done done);

 private:
  struct Job {
    Id16 request_id, buyer;
    bool with_proof;
    absl::Time deadline;
    Done done;
  };
  void Loop();
  void Look();
  bool stopping() const {
    absl::MutexLock lock(&mutex_);
    return stopping_;
  }

  const Options options_;
  ReceiptDeriver deriver_;  // the thread's
  bool used_ = false;       // the thread's: asked for anything since the last look
  mutable absl::Mutex mutex_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace gantry::billing
