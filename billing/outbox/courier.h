// Delivers the outbox: at least once, in the order of writing as long as an endpoint answers, one message at a time per
// endpoint, so that one that hangs holds up no other.
//
// A row is marked after its receiver took it; a process that dies between the two sends it again. What fails is tried
// again after a wait that doubles, with jitter, and parked after `attempts_max` tries or `age_max`: a parked row is
// shown
// (`gantry outbox list`), counted, and tried again only by hand. A failing endpoint's other rows wait a minute at most.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/random/random.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "billing/outbox/outbox.h"
#include "billing/outbox/sender.h"
#include "billing/outbox/stream.h"
#include "billing/store/clock.h"
#include "billing/store/store.h"

namespace gantry::billing {

struct RetryPolicy {
  absl::Duration first = absl::Seconds(10);  // the wait after the first failure
  absl::Duration longest = absl::Hours(6);
  int64_t attempts_max = 20;
  absl::Duration age_max = absl::Hours(72);
};
// The wait after that many failures: first x 2^(n-1), at most `longest`, times `jitter` in [0.5, 1].
absl::Duration RetryWait(const RetryPolicy& policy, int64_t failures, double jitter);

class Courier {
 public:
  struct Options {
    Store* store = nullptr;
    Clock clock;
    // Sends one message; on a courier's thread, may block. `stop` ends it early.
    std::function<SendResult(const Delivery& delivery, StreamStop* stop)> send;
    RetryPolicy retry;
    int threads = 4;
    absl::Duration look_every = absl::Seconds(1);
    // Each try, for counting; may be null. `parked`: it was the last one.
    std::function<void(const Delivery& delivery, const absl::Status& status, bool parked)> on_try;
  };
  explicit Courier(Options options);
  // Breaks off what is being sent: it is sent again after the next start.
  ~Courier();

  // There may be something new. Thread-safe.
  void Wake();

 private:
  void LookLoop();
  void SendLoop();
  void Finish(const Delivery& delivery, const SendResult& result);

  const Options options_;
  StreamStop stop_;
  absl::Mutex mutex_;
  std::deque<Delivery> ready_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<Id16> busy_ ABSL_GUARDED_BY(mutex_);                // endpoints
  absl::flat_hash_map<Id16, absl::Time> paused_ ABSL_GUARDED_BY(mutex_);  // endpoints that failed, until when
  bool woken_ ABSL_GUARDED_BY(mutex_) = true;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::InsecureBitGen random_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace gantry::billing
