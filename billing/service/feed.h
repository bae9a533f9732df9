// One feed per kind of fact that gateways keep current: a snapshot, then changes in order, and heartbeats.
//
// Order is that of the writer's thread: a subscriber's snapshot is read by a command, and both its registration and
// every publication happen in `done` callbacks, so that no change is missed and none comes twice. Snapshots come at
// each connection: sequences do not outlive the process.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/grpc_status.h"

namespace gantry::billing {

// What waits to be written to one gateway; outlives its reactor.
template <typename Event>
class Outbox {
 public:
  explicit Outbox(grpc::ServerWriteReactor<Event>* reactor) : reactor_(reactor) {}

  void Send(Event event) {
    absl::MutexLock lock(&mutex_);
    if (closed_) return;
    if (events_.size() >= kLimit) {
      CloseLocked(absl::ResourceExhaustedError("the gateway does not read its changes; connect again"));
      return;
    }
    events_.push_back(std::move(event));
    if (events_.size() == 1) reactor_->StartWrite(&events_.front());
  }
  // Heartbeats tell nothing to one who has something to read.
  void SendWhenIdle(const Event& event) {
    {
      absl::MutexLock lock(&mutex_);
      if (!events_.empty()) return;
    }
    Send(event);
  }
  void WriteDone(bool ok) {
    absl::MutexLock lock(&mutex_);
    events_.pop_front();
    if (closed_ || !ok) {
      if (!closed_) CloseLocked(absl::OkStatus());
      FinishLocked();
    } else if (!events_.empty()) {
      reactor_->StartWrite(&events_.front());
    }
  }
  void Close(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (!closed_) CloseLocked(status);
  }
  bool closed() const {
    absl::MutexLock lock(&mutex_);
    return closed_;
  }

 private:
  static constexpr size_t kLimit = 10'000;
  void CloseLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    closed_ = true;
    status_ = status;
    if (events_.size() > 1) events_.erase(events_.begin() + 1, events_.end());
    if (events_.empty()) FinishLocked();
  }
  // Never with a write outstanding.
  void FinishLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_ || !events_.empty()) return;
    finished_ = true;
    reactor_->Finish(ToGrpcStatus(status_));
  }

  mutable absl::Mutex mutex_;
  grpc::ServerWriteReactor<Event>* const reactor_;    // valid until finished_
  std::deque<Event> events_ ABSL_GUARDED_BY(mutex_);  // the first is being written
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

template <typename Event>
class Feed {
 public:
  // On the writer's thread: `snapshot` holds every change published so far.
  void Subscribe(std::shared_ptr<Outbox<Event>> outbox, Event snapshot) {
    absl::MutexLock lock(&mutex_);
    snapshot.set_sequence(sequence_);
    outbox->Send(std::move(snapshot));
    outboxes_.push_back(std::move(outbox));
  }
  // On the writer's thread, after the commit.
  void Publish(Event event) {
    absl::MutexLock lock(&mutex_);
    event.set_sequence(++sequence_);
    for (const auto& outbox : outboxes_) outbox->Send(event);
  }
  void Heartbeat(int64_t wall_us) {
    absl::MutexLock lock(&mutex_);
    std::erase_if(outboxes_, [](const auto& outbox) { return outbox->closed(); });
    Event event;
    event.set_sequence(sequence_);
    event.mutable_heartbeat()->set_wall_us(wall_us);
    for (const auto& outbox : outboxes_) outbox->SendWhenIdle(event);
  }
  void CloseAll(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    for (const auto& outbox : outboxes_) outbox->Close(status);
    outboxes_.clear();
  }
  size_t subscribers() const {
    absl::MutexLock lock(&mutex_);
    return outboxes_.size();
  }

 private:
  mutable absl::Mutex mutex_;
  uint64_t sequence_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::shared_ptr<Outbox<Event>>> outboxes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gantry::billing
