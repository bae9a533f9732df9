#include "gateway/clients/generate_client.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <set>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "gantry/v1/inference.grpc.pb.h"
#include "services/common/grpc_status.h"

namespace gantry::gateway {
namespace {

// Messages that wait for the coroutine. A client that reads slowly stops the reading here, and through HTTP/2's flow
// control the worker's sink.
constexpr size_t kQueueLimit = 64;
// What may wait to be sent: limits and acks are small and few; past this something is broken.
constexpr size_t kSendLimit = 1024;
constexpr auto kCancelWait = std::chrono::seconds(2);
constexpr absl::Duration kLastCancelWait = absl::Milliseconds(500);
constexpr auto kDeadlineSlack = std::chrono::seconds(5);

class Reactor;

// The calls of one client that gRPC has not ended yet.
struct LiveCalls {
  absl::Mutex mu;
  std::set<Reactor*> calls ABSL_GUARDED_BY(mu);
};

// Owned by gRPC (which calls OnDone last) and by the stream object; each holds one reference.
class Reactor final : public grpc::ClientBidiReactor<v1::GenerateClientMessage, v1::GenerateServerMessage>,
                      public std::enable_shared_from_this<Reactor> {
 public:
  Reactor(std::shared_ptr<LiveCalls> live, std::function<void()> wake)
      : live_(std::move(live)), wake_(std::move(wake)) {}

  void Begin(v1::Inference::Stub* stub, v1::GenerateStart start) {
    self_ = shared_from_this();
    {
      absl::MutexLock lock(&live_->mu);
      live_->calls.insert(this);
    }
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(start.deadline_ms()) +
                          kDeadlineSlack);
    stub->async()->Generate(&context_, this);
    *writing_message_.mutable_start() = std::move(start);
    writing_ = true;
    // Keeps the call open for Send from outside reactions; released when the stream object lets go.
    AddHold();
    held_ = true;
    StartWrite(&writing_message_);
    reading_ = true;
    StartRead(&incoming_);
    StartCall();
  }

  std::optional<v1::GenerateServerMessage> Next() {
    bool read = false;
    std::optional<v1::GenerateServerMessage> message;
    {
      absl::MutexLock lock(&mu_);
      if (queue_.empty()) return std::nullopt;
      message = std::move(queue_.front());
      queue_.pop_front();
      if (!reading_ && !read_ended_ && queue_.size() < kQueueLimit / 2) read = reading_ = true;
    }
    if (read) StartRead(&incoming_);
    return message;
  }

  std::optional<absl::Status> Ended() {
    absl::MutexLock lock(&mu_);
    if (!done_ || !queue_.empty()) return std::nullopt;
    return status_;
  }

  void Send(v1::GenerateClientMessage message) {
    {
      absl::MutexLock lock(&mu_);
      if (read_ended_ || done_ || sends_.size() >= kSendLimit) return;
      cancel_sent_ = cancel_sent_ || message.has_cancel();
      if (writing_) {
        sends_.push_back(std::move(message));
        return;
      }
      writing_ = true;
      writing_message_ = std::move(message);
    }
    StartWrite(&writing_message_);
  }

  // Nobody reads any more. A request that still runs is cancelled by message, since a broken transport would let it run
  // on as an orphan (R1); the call itself is cancelled only when the other side does not answer.
  void LetGo() {
    bool read = false;
    bool cancel = false;
    {
      absl::MutexLock lock(&mu_);
      wake_ = nullptr;
      discard_ = true;
      queue_.clear();
      if (read_ended_ || done_) return;
      cancel = !cancel_sent_;
      read = !reading_;
      reading_ = true;
      // Weak: an alarm keeps its callback until it is destroyed itself.
      give_up_.Set(std::chrono::system_clock::now() + kCancelWait, [weak = weak_from_this()](bool fired) {
        const std::shared_ptr<Reactor> self = weak.lock();
        if (fired && self != nullptr) self->context_.TryCancel();
      });
    }
    if (read) StartRead(&incoming_);
    if (cancel) {
      v1::GenerateClientMessage message;
      message.mutable_cancel()->set_reason(v1::CANCEL_REASON_INTERNAL);
      Send(std::move(message));
    }
  }

  void OnReadDone(bool ok) override {
    std::function<void()> wake;
    bool read = false;
    bool release = false;
    {
      absl::MutexLock lock(&mu_);
      reading_ = false;
      if (ok) {
        if (!discard_) queue_.push_back(std::move(incoming_));
        incoming_.Clear();
        if (queue_.size() < kQueueLimit) read = reading_ = true;
      } else {
        // The server has ended; without the hold gRPC goes on to OnDone. A write that is being started needs it still.
        read_ended_ = true;
        release = !writing_ && std::exchange(held_, false);
      }
      wake = wake_;
    }
    if (read) StartRead(&incoming_);
    if (release) RemoveHold();
    if (wake) wake();
  }

  void OnWriteDone(bool ok) override {
    bool release = false;
    {
      absl::MutexLock lock(&mu_);
      if (!ok || read_ended_) sends_.clear();
      if (sends_.empty()) {
        writing_ = false;
        release = read_ended_ && std::exchange(held_, false);
      } else {
        writing_message_ = std::move(sends_.front());
        sends_.pop_front();
      }
      if (!writing_ && !release) return;
    }
    if (release) {
      RemoveHold();
    } else {
      StartWrite(&writing_message_);
    }
  }

  void OnDone(const grpc::Status& status) override {
    std::function<void()> wake;
    {
      absl::MutexLock lock(&mu_);
      done_ = true;
      status_ = FromGrpcStatus(status);
      wake = std::move(wake_);
      wake_ = nullptr;
    }
    give_up_.Cancel();
    if (wake) wake();
    const std::shared_ptr<Reactor> self = std::move(self_);
    absl::MutexLock lock(&live_->mu);
    live_->calls.erase(this);
  }

  // Ends the call whatever the other side does.
  void Break() { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  grpc::Alarm give_up_;
  const std::shared_ptr<LiveCalls> live_;
  std::shared_ptr<Reactor> self_;  // until OnDone
  absl::Mutex mu_;
  std::function<void()> wake_;
  std::deque<v1::GenerateServerMessage> queue_;
  std::deque<v1::GenerateClientMessage> sends_;
  v1::GenerateServerMessage incoming_;         // gRPC's while reading_
  v1::GenerateClientMessage writing_message_;  // gRPC's while writing_
  bool reading_ = false;
  bool writing_ = false;
  bool held_ = false;
  bool discard_ = false;
  bool cancel_sent_ = false;
  bool read_ended_ = false;
  bool done_ = false;
  absl::Status status_;
};

class Stream final : public GenerateStream {
 public:
  explicit Stream(std::shared_ptr<Reactor> reactor) : reactor_(std::move(reactor)) {}
  ~Stream() override { reactor_->LetGo(); }
  std::optional<v1::GenerateServerMessage> Next() override { return reactor_->Next(); }
  std::optional<absl::Status> Ended() override { return reactor_->Ended(); }
  void Send(v1::GenerateClientMessage message) override { reactor_->Send(std::move(message)); }

 private:
  std::shared_ptr<Reactor> reactor_;
};

class Client final : public GenerateClient {
 public:
  explicit Client(const std::shared_ptr<grpc::Channel>& channel) : stub_(v1::Inference::NewStub(channel)) {}
  // Calls that nobody reads any more have been cancelled by message; they get a moment to end by it.
  ~Client() override {
    absl::MutexLock lock(&live_->mu);
    const auto none = [&]() ABSL_SHARED_LOCKS_REQUIRED(live_->mu) { return live_->calls.empty(); };
    if (live_->mu.AwaitWithTimeout(absl::Condition(&none), kLastCancelWait)) return;
    for (Reactor* call : live_->calls) call->Break();
    live_->mu.Await(absl::Condition(&none));
  }

  std::unique_ptr<GenerateStream> Start(v1::GenerateStart start, std::function<void()> wake) override {
    auto reactor = std::make_shared<Reactor>(live_, std::move(wake));
    reactor->Begin(stub_.get(), std::move(start));
    return std::make_unique<Stream>(std::move(reactor));
  }

 private:
  std::unique_ptr<v1::Inference::Stub> stub_;
  const std::shared_ptr<LiveCalls> live_ = std::make_shared<LiveCalls>();
};

}  // namespace

std::unique_ptr<GenerateClient> MakeGenerateClient(std::shared_ptr<grpc::Channel> router) {
  return std::make_unique<Client>(router);
}

}  // namespace gantry::gateway
