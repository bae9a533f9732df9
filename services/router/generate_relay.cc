#include "services/router/generate_relay.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <chrono>
#include <deque>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gantry/v1/inference.pb.h"
#include "services/common/grpc_status.h"
#include "services/common/ids.h"
#include "services/router/fleet.h"
#include "services/router/router_metrics.h"

namespace gantry::router {
namespace {

using grpc::ByteBuffer;

constexpr char kGenerateMethod[] = "/gantry.v1.Inference/Generate";
// Messages (raised limits, acks) that a client may send before it has a worker.
constexpr size_t kEarlyMessageLimit = 64;
// How long past the request's own budget a stream may live: the worker ends it with a finish before that.
constexpr absl::Duration kDeadlineMargin = absl::Seconds(5);

bool Parse(ByteBuffer* buffer, google::protobuf::MessageLite* message) {
  grpc::ProtoBufferReader reader(buffer);
  return reader.status().ok() && message->ParseFromZeroCopyStream(&reader);
}

ByteBuffer Serialize(const google::protobuf::MessageLite& message) {
  std::string bytes = message.SerializeAsString();
  grpc::Slice slice(bytes);
  return ByteBuffer(&slice, 1);
}

absl::Status CheckStart(const v1::GenerateStart& start) {
  auto bad = [](const std::string& what) { return absl::InvalidArgumentError("start: " + what); };
  if (start.request_id().size() != 16) {
    return bad(absl::StrCat("request_id: expected 16 bytes, found ", start.request_id().size()));
  }
  if (start.model().empty() || start.model().size() > 256) {
    return bad(absl::StrCat("model: expected 1..256 bytes, found ", start.model().size()));
  }
  if (start.sequences_size() < 1 || start.sequences_size() > 16) {
    return bad(absl::StrCat("sequences: expected 1..16, found ", start.sequences_size()));
  }
  if (start.priority() < -100 || start.priority() > 100) {
    return bad(absl::StrCat("priority: expected -100..100, found ", start.priority()));
  }
  if (start.deadline_ms() < 1 || start.deadline_ms() > 86'400'000) {
    return bad(absl::StrCat("deadline_ms: expected 1..86400000, found ", start.deadline_ms()));
  }
  return absl::OkStatus();  // what only a worker can judge, it judges
}

Outcome OutcomeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return Outcome::kOk;
    case absl::StatusCode::kCancelled:
      return Outcome::kCancelled;
    case absl::StatusCode::kDeadlineExceeded:
      return Outcome::kDeadline;
    case absl::StatusCode::kInvalidArgument:
      return Outcome::kInvalid;
    case absl::StatusCode::kNotFound:
      return Outcome::kUnknownModel;
    case absl::StatusCode::kUnavailable:
      return Outcome::kNoWorker;
    case absl::StatusCode::kResourceExhausted:
      return Outcome::kQueueFull;
    default:
      return Outcome::kError;
  }
}

class Relay final : public Waiter, public std::enable_shared_from_this<Relay> {
 public:
  Relay(grpc::CallbackServerContext* context, Fleet* fleet, RouterMetrics* metrics, absl::Duration (*now)())
      : context_(context), fleet_(fleet), metrics_(metrics), now_(now) {}

  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* Start() {
    auto* front = new Front(shared_from_this());
    absl::MutexLock lock(&mutex_);
    front_ = front;
    ReadFront();
    return front;
  }

  // ---- Waiter ----

  void OnAssigned(Reservation reservation) override {
    absl::MutexLock lock(&mutex_);
    // Ended between the choice and this call: the reservation goes back as the argument dies, after the lock.
    if (phase_ != Phase::kWaiting) return;
    phase_ = Phase::kStreaming;
    absl::Duration waited = now_() - arrived_;
    metrics_->ObserveQueueWait(absl::ToDoubleSeconds(waited));
    reservation_ = std::move(reservation);

    auto left_ms = std::max<int64_t>(1, absl::ToInt64Milliseconds(deadline_ - now_()));
    start_.mutable_start()->set_deadline_ms(static_cast<uint64_t>(left_ms));
    back_out_ = Serialize(start_);
    start_.Clear();

    back_context_.set_deadline(std::min(context_->deadline(), std::chrono::system_clock::now() +
                                                                  std::chrono::milliseconds(left_ms) +
                                                                  absl::ToChronoMilliseconds(kDeadlineMargin)));
    back_ = new Back(shared_from_this());
    grpc::GenericStub stub(reservation_.channel());
    stub.PrepareBidiStreamingCall(&back_context_, kGenerateMethod, grpc::StubOptions(), back_);
    back_->AddHold();  // operations also start from the front's reactions
    back_writing_ = true;
    back_->StartWrite(&back_out_);
    back_->StartRead(&back_in_);
    back_->StartCall();
  }

  void OnRefused(const absl::Status& status) override {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kWaiting) return;
    End(status, OutcomeOf(status));
  }

  void OnWorkerLost(const std::string& reason) override {
    absl::MutexLock lock(&mutex_);
    if (phase_ != Phase::kStreaming || back_ == nullptr) return;
    lost_reason_ = reason;
    back_context_.TryCancel();
  }

 private:
  enum class Phase { kStart, kWaiting, kStreaming, kEnded };

  // The two reactors are only ears: each call goes to the relay, which they keep alive.
  class Front final : public grpc::ServerBidiReactor<ByteBuffer, ByteBuffer> {
   public:
    explicit Front(std::shared_ptr<Relay> relay) : relay_(std::move(relay)) {}
    void OnReadDone(bool ok) override { relay_->FrontReadDone(ok); }
    void OnWriteDone(bool ok) override { relay_->FrontWriteDone(ok); }
    void OnCancel() override { relay_->FrontCancelled(); }
    void OnDone() override { delete this; }

   private:
    const std::shared_ptr<Relay> relay_;
  };

  class Back final : public grpc::ClientBidiReactor<ByteBuffer, ByteBuffer> {
   public:
    explicit Back(std::shared_ptr<Relay> relay) : relay_(std::move(relay)) {}
    void OnReadDone(bool ok) override { relay_->BackReadDone(ok); }
    void OnWriteDone(bool ok) override { relay_->BackWriteDone(ok); }
    void OnDone(const grpc::Status& status) override {
      relay_->BackDone(FromGrpcStatus(status));
      delete this;
    }

   private:
    const std::shared_ptr<Relay> relay_;
  };

  // ---- from the gateway ----

  void FrontReadDone(bool ok) {
    WaitRequest request;
    bool acquire = false;
    {
      absl::MutexLock lock(&mutex_);
      front_reading_ = false;
      if (!ok) {
        front_reads_over_ = true;
        if (phase_ == Phase::kStart) {
          End(absl::InvalidArgumentError("the stream ended before its start message"), Outcome::kInvalid);
        } else if (phase_ == Phase::kStreaming) {
          ForwardToWorker();
        }
        return;
      }
      switch (phase_) {
        case Phase::kStart:
          acquire = TakeStart(&request);
          break;
        case Phase::kWaiting:
          TakeWhileWaiting();
          break;
        case Phase::kStreaming:
          early_.push_back(std::move(front_in_));
          front_in_.Clear();
          ForwardToWorker();
          break;
        case Phase::kEnded:
          break;
      }
    }
    if (!acquire) return;
    uint64_t ticket = fleet_->Acquire(request, shared_from_this());
    bool leave = false;
    {
      absl::MutexLock lock(&mutex_);
      ticket_ = ticket;
      leave = phase_ == Phase::kEnded;
    }
    // The client may have left while Acquire ran.
    if (leave) fleet_->CancelWait(ticket);
  }

  // True: the start is good, ask the fleet for a worker.
  bool TakeStart(WaitRequest* request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!Parse(&front_in_, &start_) || !start_.has_start()) {
      End(absl::InvalidArgumentError("the first message of a Generate stream is start"), Outcome::kInvalid);
      return false;
    }
    front_in_.Clear();
    const v1::GenerateStart& start = start_.start();
    if (absl::Status good = CheckStart(start); !good.ok()) {
      End(good, Outcome::kInvalid);
      return false;
    }
    arrived_ = now_();
    deadline_ = arrived_ + absl::Milliseconds(static_cast<int64_t>(start.deadline_ms()));
    for (const v1::SequenceStart& sequence : start.sequences()) sequences_.push_back(sequence.index());
    request->model = start.model();
    request->sequences = static_cast<uint32_t>(start.sequences_size());
    request->priority = start.priority();
    request->deadline = deadline_;
    phase_ = Phase::kWaiting;
    ReadFront();
    return true;
  }

  void TakeWhileWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    v1::GenerateClientMessage message;
    ByteBuffer copy = front_in_;  // shares the bytes
    if (!Parse(&copy, &message) || message.has_start()) {
      End(absl::InvalidArgumentError("expected raise_limit, ack or cancel after start"), Outcome::kInvalid);
    } else if (message.has_cancel()) {
      FinishCancelled();
    } else if (early_.size() >= kEarlyMessageLimit) {
      End(absl::ResourceExhaustedError("too many messages before a worker took the request"), Outcome::kInvalid);
    } else {
      early_.push_back(std::move(front_in_));
      front_in_.Clear();
      ReadFront();
    }
  }

  void ReadFront() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (front_reading_ || front_reads_over_) return;
    front_reading_ = true;
    front_->StartRead(&front_in_);
  }

  // Next message to the worker, if it has taken the last; the client's next is read when all have gone.
  void ForwardToWorker() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (back_ == nullptr || back_writing_ || back_over_) return;
    if (!early_.empty()) {
      back_out_ = std::move(early_.front());
      early_.pop_front();
      back_writing_ = true;
      back_->StartWrite(&back_out_);
    } else if (front_reads_over_ && !writes_done_) {
      writes_done_ = true;
      back_->StartWritesDone();
    }
  }

  void FrontWriteDone(bool ok) {
    absl::MutexLock lock(&mutex_);
    front_writing_ = false;
    if (phase_ == Phase::kEnded) {
      WriteOwnOrFinish();
    } else if (!ok) {
      // The transport is broken; OnCancel follows or came.
      back_context_.TryCancel();
      ResumeBackRead();
    } else {
      ResumeBackRead();
    }
  }

  void FrontCancelled() {
    absl::MutexLock lock(&mutex_);
    client_gone_ = true;
    if (phase_ == Phase::kStreaming) {
      back_context_.TryCancel();  // its OnDone ends the front
    } else {
      End(absl::CancelledError("the client left"), CancelOutcome());
    }
  }

  Outcome CancelOutcome() const {
    return std::chrono::system_clock::now() >= context_->deadline() ? Outcome::kDeadline : Outcome::kCancelled;
  }

  // ---- from the worker ----

  void BackReadDone(bool ok) {
    absl::MutexLock lock(&mutex_);
    if (!ok) {
      // The worker has said its last; OnDone brings the status once a write in flight has come back.
      back_over_ = true;
      back_->RemoveHold();
      return;
    }
    metrics_->ObserveFrame();
    front_out_ = std::move(back_in_);
    back_in_.Clear();
    front_writing_ = true;
    front_->StartWrite(&front_out_);
  }

  void ResumeBackRead() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (back_ != nullptr && !back_over_) back_->StartRead(&back_in_);
  }

  void BackWriteDone(bool ok) {
    absl::MutexLock lock(&mutex_);
    back_writing_ = false;
    if (!ok || phase_ != Phase::kStreaming) return;  // the reads will end and say why
    ForwardToWorker();
    if (!back_writing_) ReadFront();
  }

  void BackDone(absl::Status status) {
    Reservation released;
    absl::MutexLock lock(&mutex_);
    back_ = nullptr;
    std::string worker = reservation_.worker_id().ToHex();
    released = std::move(reservation_);
    Outcome outcome = OutcomeOf(status);
    if (client_gone_) {
      status = absl::CancelledError("the client left");
      outcome = CancelOutcome();
    } else if (!lost_reason_.empty() || absl::IsUnavailable(status) || absl::IsCancelled(status)) {
      status = absl::UnavailableError(
          absl::StrCat("worker ", worker, " lost: ", lost_reason_.empty() ? status.message() : lost_reason_));
      outcome = Outcome::kWorkerLost;
    }
    End(status, outcome);
  }

  // ---- ending ----

  // The request was cancelled before any worker had it: the finishes are the router's to send.
  void FinishCancelled() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (uint32_t index : sequences_) {
      v1::GenerateServerMessage message;
      message.mutable_finish()->set_sequence(index);
      message.mutable_finish()->set_reason(v1::FINISH_REASON_CANCELLED);
      message.mutable_finish()->mutable_counts();
      own_frames_.push_back(Serialize(message));
    }
    End(absl::OkStatus(), Outcome::kCancelled);
  }

  void End(const absl::Status& status, Outcome outcome) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (phase_ == Phase::kEnded) return;
    // Safe under the lock: the fleet never calls back from CancelWait. A choice made meanwhile goes back in OnAssigned.
    if (phase_ == Phase::kWaiting && ticket_ != 0) fleet_->CancelWait(ticket_);
    phase_ = Phase::kEnded;
    status_ = status;
    metrics_->CountRequest(outcome);
    if (!front_writing_) WriteOwnOrFinish();
  }

  void WriteOwnOrFinish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!own_frames_.empty() && !client_gone_) {
      front_out_ = std::move(own_frames_.front());
      own_frames_.pop_front();
      front_writing_ = true;
      front_->StartWrite(&front_out_);
      return;
    }
    grpc::Status status = ToGrpcStatus(status_);
    if (absl::IsResourceExhausted(status_)) context_->AddTrailingMetadata("gantry-retry-after-ms", "1000");
    front_->Finish(status);
  }

  grpc::CallbackServerContext* const context_;
  Fleet* const fleet_;
  RouterMetrics* const metrics_;
  absl::Duration (*const now_)();

  absl::Mutex mutex_;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kStart;
  Front* front_ ABSL_GUARDED_BY(mutex_) = nullptr;  // valid until Finish
  Back* back_ ABSL_GUARDED_BY(mutex_) = nullptr;    // valid until BackDone
  grpc::ClientContext back_context_;
  ByteBuffer front_in_, front_out_, back_in_, back_out_;  // owned by the operation in flight
  bool front_reads_over_ ABSL_GUARDED_BY(mutex_) = false;
  bool front_reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool front_writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool back_writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool back_over_ ABSL_GUARDED_BY(mutex_) = false;
  bool writes_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool client_gone_ ABSL_GUARDED_BY(mutex_) = false;
  std::string lost_reason_ ABSL_GUARDED_BY(mutex_);
  std::deque<ByteBuffer> early_ ABSL_GUARDED_BY(mutex_);       // client messages not yet forwarded
  std::deque<ByteBuffer> own_frames_ ABSL_GUARDED_BY(mutex_);  // finishes the router sends itself
  v1::GenerateClientMessage start_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> sequences_ ABSL_GUARDED_BY(mutex_);
  absl::Duration arrived_ ABSL_GUARDED_BY(mutex_);
  absl::Duration deadline_ ABSL_GUARDED_BY(mutex_);
  uint64_t ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  Reservation reservation_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* NewGenerateRelay(grpc::CallbackServerContext* context, Fleet* fleet,
                                                                  RouterMetrics* metrics, absl::Duration (*now)()) {
  return std::make_shared<Relay>(context, fleet, metrics, now)->Start();
}

}  // namespace gantry::router
