// The server's half of a long stream on which it gives orders: they wait in a bounded queue, one is written at a time,
// and the stream is finished once, never with a write outstanding. It outlives its reactor, since orders may be given
// to a stream that is ending by itself. Thread-safe.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <cstddef>
#include <deque>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/grpc_status.h"

namespace gantry {

template <typename Report, typename Order>
class OrderLine {
 public:
  using Reactor = grpc::ServerBidiReactor<Report, Order>;
  struct Options {
    size_t order_limit = 0;  // with so many waiting the peer does not read: the stream ends RESOURCE_EXHAUSTED
    std::string not_read;    // and says this
    bool held = false;       // Finish waits for Release: the reactor starts something that it must not overtake
  };
  OrderLine(Reactor* reactor, Options options)
      : reactor_(reactor), options_(std::move(options)), held_(options_.held) {}

  void Send(Order order) {
    absl::MutexLock lock(&mu_);
    if (finishing_) return;
    if (orders_.size() >= options_.order_limit) {
      FinishWith(absl::ResourceExhaustedError(options_.not_read));
      return;
    }
    orders_.push_back(std::move(order));
    if (!writing_) {
      writing_ = true;
      reactor_->StartWrite(&orders_.front());
    }
  }
  void Close(const absl::Status& status) {
    absl::MutexLock lock(&mu_);
    if (!finishing_) FinishWith(status);
  }
  // The reactor may be gone after it.
  void Release() {
    absl::MutexLock lock(&mu_);
    held_ = false;
    MaybeFinish();
  }
  // From the reactor's OnWriteDone. A write that failed is followed by OnCancel, which closes.
  void WriteDone(bool ok) {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    orders_.pop_front();
    if (!ok || finishing_) {
      MaybeFinish();
    } else if (!orders_.empty()) {
      writing_ = true;
      reactor_->StartWrite(&orders_.front());
    }
  }

 private:
  void FinishWith(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    finishing_ = true;
    status_ = status;
    MaybeFinish();
  }
  void MaybeFinish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!finishing_ || writing_ || held_ || finished_) return;
    finished_ = true;
    reactor_->Finish(ToGrpcStatus(status_));
  }

  absl::Mutex mu_;
  Reactor* const reactor_;  // valid until finished_
  const Options options_;
  std::deque<Order> orders_ ABSL_GUARDED_BY(mu_);
  bool held_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finishing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace gantry
