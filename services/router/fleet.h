// What the router knows: which workers are attached, what they serve, how loaded they are, and who waits for them.
// All of it is rebuilt from the workers' own reports within a beat; nothing here is durable.
//
// Leases. A worker that has been silent for three of its beats on this process's monotonic clock is forgotten and the
// requests it was running are told so. Two cases look the same and are not: when this process itself stood still (its
// ticks came late), every lease is extended by the time lost; when more than half of the fleet seems gone, the fault is
// probably here, so they are kept as `suspect` (chosen only when nobody else is left) for at most ten leases. A broken
// attach stream is no silence but knowledge: the worker gets nothing new from that moment; streams that it still runs
// break by themselves if it died.
//
// Choice. Least loaded first: load = max(what the worker reported, corrected by what was reserved and released here
// since, own reservations); ties go to the worker chosen least recently. A request is handed over when the worker has
// room for all its sequences (or is idle), else it waits here: higher priority first, then first come, first served,
// one bounded queue per model.
//
// Invariants: a request is in exactly one state of waiting, reserved, gone; a reservation is counted at its worker
// until released, however the worker ends; the queue of a model without attached workers is empty.
//
// Thread-safe. Callbacks of Waiter and AttachStream are made without locks held, on whichever thread caused them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gantry/v1/fleet.pb.h"
#include "services/common/ids.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace gantry::router {

// The range of internal protocol versions this build speaks.
inline constexpr uint32_t kProtocolMin = 1;
inline constexpr uint32_t kProtocolMax = 1;

class Fleet;

// A place at a worker for one request; gives it back when destroyed.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept { *this = std::move(other); }
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation() { Release(); }

  explicit operator bool() const { return fleet_ != nullptr; }
  const Id16& worker_id() const { return worker_id_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  void Release();

 private:
  friend class Fleet;
  Fleet* fleet_ = nullptr;
  uint64_t attachment_ = 0;
  uint64_t ticket_ = 0;
  Id16 worker_id_;
  std::shared_ptr<grpc::Channel> channel_;
};

// One request that wants a worker. Exactly one of OnAssigned and OnRefused is called, unless the wait is cancelled.
class Waiter {
 public:
  virtual ~Waiter() = default;
  virtual void OnAssigned(Reservation reservation) = 0;
  virtual void OnRefused(const absl::Status& status) = 0;
  // The worker of a held reservation is known to be gone. At most once, after OnAssigned.
  virtual void OnWorkerLost(const std::string& reason) = 0;
};

// The router's end of one attach stream.
class AttachStream {
 public:
  virtual ~AttachStream() = default;
  // Ends the stream with `status`. Harmless when it has ended.
  virtual void Close(const absl::Status& status) = 0;
};

struct FleetOptions {
  size_t queue_limit = 1024;                          // waiting requests per model
  absl::Duration queue_wait_max = absl::Seconds(60);  // longest wait whatever the request's own deadline
  uint64_t epoch = 1;                                 // of this router
  std::function<absl::Duration()> now;                // monotonic
  std::function<std::shared_ptr<grpc::Channel>(const std::string& address)> connect;
};

struct WaitRequest {
  std::string model;
  uint32_t sequences = 1;
  int32_t priority = 0;                                // higher first
  absl::Duration deadline = absl::InfiniteDuration();  // on the fleet's clock
};

struct FleetCounts {
  size_t ready = 0, draining = 0, suspect = 0;  // workers
  size_t waiting = 0;                           // requests in queues
  size_t reserved = 0;                          // requests handed to workers
};

class Fleet {
 public:
  explicit Fleet(FleetOptions options);
  ~Fleet();

  // ---- workers ----

  struct Attached {
    uint64_t attachment = 0;  // names this stream in Report and Detach
    v1::RouterWelcome welcome;
  };
  // INVALID_ARGUMENT (names the field), FAILED_PRECONDITION (no common protocol version; another tokenizer or template
  // under a model name that is already served), ALREADY_EXISTS (a newer epoch of this worker is attached),
  // RESOURCE_EXHAUSTED (more than 1000 workers). A newer epoch, or the same one again, replaces the older stream.
  absl::StatusOr<Attached> Attach(const v1::WorkerHello& hello, std::shared_ptr<AttachStream> stream);

  // A report after the hello; `sequence` of the hello was 1. Returns the sequence to name in a snapshot request when a
  // gap was seen (once per gap). Reports of a replaced or forgotten attachment: ABORTED, the worker attaches anew.
  absl::StatusOr<std::optional<uint64_t>> Report(uint64_t attachment, const v1::WorkerReport& report);

  // The stream ended.
  void Detach(uint64_t attachment);

  // Leases and queue deadlines. Call every 50 ms or so.
  void Tick();

  // ---- requests ----

  // Answers through `waiter`, possibly before it returns. The ticket names the wait in CancelWait.
  // Refusals: NOT_FOUND (unknown model; lists the known), UNAVAILABLE (no worker serves it now), RESOURCE_EXHAUSTED
  // (queue full, or waited too long), DEADLINE_EXCEEDED.
  uint64_t Acquire(const WaitRequest& request, const std::shared_ptr<Waiter>& waiter);
  // True: it was waiting and will hear nothing more.
  bool CancelWait(uint64_t ticket);

  // ---- models ----

  // One card per served name, of the worker attached longest.
  std::vector<v1::ModelCard> Models() const;
  // A worker that has the blob in one of its cards. NOT_FOUND.
  absl::StatusOr<std::shared_ptr<grpc::Channel>> WorkerWithBlob(const std::string& sha256) const;

  FleetCounts Counts() const;
  // Refuses all waiting requests with `status`, closes all attach streams with it, admits nothing more.
  void Close(const absl::Status& status);

 private:
  friend class Reservation;
  struct Worker;
  struct Waiting;
  using Deferred = std::vector<std::function<void()>>;  // callbacks to make once the lock is released

  // Ascending: higher priority, then earlier ticket.
  using QueueKey = std::pair<int32_t, uint64_t>;
  using Queue = std::map<QueueKey, Waiting>;

  void Release(uint64_t attachment, uint64_t ticket);
  Worker* ChooseLocked(const std::string& model, uint32_t sequences) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PumpLocked(const std::string& model, Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PumpAllLocked(Deferred* deferred) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsServedLocked(const std::string& model) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status NoWorkerLocked(const std::string& model) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets a worker for routing. Its requests are told when `tell_requests`.
  void RemoveLocked(uint64_t attachment, const std::string& reason, bool tell_requests, Deferred* deferred)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Waiting requests whose last worker has gone or drains.
  void RefuseUnservedLocked(const std::vector<v1::ModelCard>& cards, Deferred* deferred)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const FleetOptions options_;
  mutable absl::Mutex mutex_;
  std::map<uint64_t, std::unique_ptr<Worker>> workers_ ABSL_GUARDED_BY(mutex_);  // by attachment: oldest first
  std::map<std::string, Queue> queues_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::pair<std::string, QueueKey>> waiting_ ABSL_GUARDED_BY(mutex_);  // ticket -> place
  std::set<std::string> models_seen_ ABSL_GUARDED_BY(mutex_);                             // ever served; bounded
  uint64_t next_attachment_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t next_ticket_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t choices_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t reserved_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<absl::Duration> last_tick_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> closed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gantry::router
