#include "services/worker/generate_call.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/grpc_status.h"
#include "services/common/log.h"

namespace gantry::worker {
namespace {

using Clock = std::chrono::steady_clock;

// Frames that may wait for the transport.
constexpr size_t kFramesMax = 64;
constexpr absl::Duration kOrphanLife = absl::Seconds(2);
constexpr uint64_t kOrphanTokens = 256;
// Tokens that wait for their sequence's turn and that no later round takes along (it was preempted, or waits for
// credit) are looked for this often.
constexpr absl::Duration kLookForLeftBehind = absl::FromChrono(FramePacer::kLongestInterval);

v1::FinishReason ReasonOf(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case engine::FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case engine::FinishReason::kCredit:
      return v1::FINISH_REASON_CREDIT;
    case engine::FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case engine::FinishReason::kDeadline:
      return v1::FINISH_REASON_DEADLINE;
    case engine::FinishReason::kError:
      return v1::FINISH_REASON_ERROR;
  }
  return v1::FINISH_REASON_ERROR;
}

void FillCounts(const engine::Counts& counts, v1::Counts* out) {
  out->set_prompt(static_cast<uint64_t>(counts.prompt));
  out->set_cached(static_cast<uint64_t>(counts.cached));
  out->set_generated(static_cast<uint64_t>(counts.generated));
  out->set_recomputed(static_cast<uint64_t>(counts.recomputed));
  out->set_drafted(static_cast<uint64_t>(counts.drafted));
  out->set_accepted(static_cast<uint64_t>(counts.accepted));
}

void FillLogprob(engine::TokenId id, const engine::TokenLogprobs& row, v1::TokenLogprob* out) {
  out->set_token_id(static_cast<uint32_t>(id));
  out->set_logprob(row.logprob);
  for (const auto& [top_id, logprob] : row.top) {
    v1::TopLogprob* top = out->add_top();
    top->set_token_id(static_cast<uint32_t>(top_id));
    top->set_logprob(logprob);
  }
}

// Adds what follows to a frame that may hold tokens already.
void AppendTokens(uint32_t sequence, const engine::TokenEvent& event, v1::Tokens* tokens) {
  if (tokens->ids().empty()) {
    tokens->set_sequence(sequence);
    tokens->set_first_index(static_cast<uint32_t>(event.first_index));
  }
  std::string* packed = tokens->mutable_ids();
  for (size_t i = 0; i < event.ids.size(); ++i) {
    const auto id = static_cast<uint32_t>(event.ids[i]);
    packed->append(reinterpret_cast<const char*>(&id), sizeof(id));
    if (i < event.logprobs.size()) FillLogprob(event.ids[i], event.logprobs[i], tokens->add_logprobs());
  }
  for (const engine::TokenLogprobs& row : event.prompt_logprobs) FillLogprob(0, row, tokens->add_prompt_logprobs());
  FillCounts(event.counts, tokens->mutable_counts());
}

class GenerateCall;

// The engine's end of one sequence.
class SequenceSink final : public engine::Sink {
 public:
  SequenceSink(std::shared_ptr<GenerateCall> call, uint32_t index, BoardSlot* slot, Spool::Reservation reservation,
               const GenerateContext& context)
      : call_(std::move(call)),
        index_(index),
        slot_(slot),
        reservation_(std::move(reservation)),
        place_(context.pacer),
        energy_(context.energy) {}
  bool OnTokens(const engine::TokenEvent& event) override;
  void OnFinish(const engine::FinishEvent& event) override;

 private:
  const std::shared_ptr<GenerateCall> call_;
  const uint32_t index_;
  BoardSlot* const slot_;
  Spool::Reservation reservation_;
  const FramePacer::Place place_;
  const EnergySpan energy_;
};

class GenerateCall final : public GenerateReactor, public std::enable_shared_from_this<GenerateCall> {
 public:
  explicit GenerateCall(const GenerateContext* context) : context_(*context) {}

  void Begin(std::shared_ptr<GenerateCall> self) {
    self_ = std::move(self);
    StartRead(&incoming_);
  }

  // ---- the engine's thread ----

  // False: full, offer again.
  bool PushTokens(uint32_t sequence, const engine::TokenEvent& event) {
    engine::RequestId overrun = 0;
    {
      std::lock_guard lock(mutex_);
      if (broken_) {
        // An orphan's tokens go nowhere; it may run on for a bounded number of them.
        if (static_cast<uint64_t>(event.counts.generated) > acked_[sequence] + kOrphanTokens) overrun = ids_[sequence];
      } else {
        if (outgoing_.size() >= kFramesMax) return false;
        AppendTokens(sequence, event, waiting_[sequence].frame.mutable_tokens());
        if (HasTurnLocked(sequence)) {
          SendWaitingLocked(sequence);
          WriteNextLocked();
        } else {
          LookLaterLocked();
        }
      }
    }
    if (overrun != 0) context_.engine->Cancel(overrun);
    return true;
  }

  void PushFinish(uint32_t sequence, v1::GenerateServerMessage frame) {
    std::lock_guard lock(mutex_);
    --open_sequences_;
    if (!broken_) {
      // Always room for these two of every sequence.
      SendWaitingLocked(sequence);
      outgoing_.push_back(std::move(frame));
    }
    WriteNextLocked();
  }

  const GenerateContext& context() const { return context_; }
  const std::string& request_id() const { return request_id_; }
  const std::string& hold_id() const { return hold_id_; }
  const std::string& tenant() const { return tenant_; }
  uint32_t attempt() const { return attempt_; }

  // ---- reactions; none of them blocks ----

  void OnReadDone(bool ok) override {
    if (!ok) {
      // Half-closed: the client has said all it wanted to say. Before `start` that is a mistake.
      std::lock_guard lock(mutex_);
      if (!started_) FinishLocked(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "the stream ended before `start`"));
      return;
    }
    const absl::Status status = Handle(incoming_);
    if (!status.ok()) {
      std::lock_guard lock(mutex_);
      FinishLocked(ToGrpcStatus(status));
      return;
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) broken_ = true;
    if (broken_) outgoing_.clear();
    WriteNextLocked();
  }

  void OnCancel() override {
    {
      std::lock_guard lock(mutex_);
      broken_ = true;
      outgoing_.clear();
      WriteNextLocked();
      if (open_sequences_ == 0) return;
    }
    context_.delayed->After(kOrphanLife, [call = shared_from_this()] { call->CancelAll(); });
  }

  void OnDone() override {
    // Sinks of orphans may keep the object beyond this; else it goes when `self` does, after the lock.
    std::shared_ptr<GenerateCall> self;
    std::lock_guard lock(mutex_);
    self = std::move(self_);
    broken_ = true;
  }

 private:
  absl::Status Handle(const v1::GenerateClientMessage& message) {
    switch (message.kind_case()) {
      case v1::GenerateClientMessage::kStart:
        return HandleStart(message.start());
      case v1::GenerateClientMessage::kRaiseLimit: {
        const engine::RequestId id = IdOf(message.raise_limit().sequence());
        if (id != 0)
          context_.engine->RaiseLimit(
              id, static_cast<int>(std::min<uint32_t>(message.raise_limit().until_index(), INT32_MAX)));
        return absl::OkStatus();
      }
      case v1::GenerateClientMessage::kAck: {
        std::lock_guard lock(mutex_);
        if (message.ack().sequence() < acked_.size()) {
          uint64_t& acked = acked_[message.ack().sequence()];
          acked = std::max<uint64_t>(acked, message.ack().next_index());
        }
        return absl::OkStatus();
      }
      case v1::GenerateClientMessage::kCancel:
        CancelAll();
        return absl::OkStatus();
      default:
        return absl::InvalidArgumentError("expected start, raise_limit, ack or cancel");
    }
  }

  absl::Status HandleStart(const v1::GenerateStart& start) {
    {
      std::lock_guard lock(mutex_);
      if (started_) return absl::InvalidArgumentError("`start` came twice");
      started_ = true;
    }
    absl::StatusOr<std::vector<engine::Request>> requests = ReadStart(start, context_.model);
    if (!requests.ok()) return requests.status();
    request_id_ = start.request_id();
    hold_id_ = start.hold_id();
    tenant_ = start.tenant();
    attempt_ = start.attempt();
    const size_t count = requests->size();
    {
      std::lock_guard lock(mutex_);
      acked_.assign(count, 0);
      waiting_.resize(count);
      ids_.assign(count, 0);
      open_sequences_ = static_cast<int>(count);
      v1::GenerateServerMessage accepted;
      accepted.mutable_accepted()->set_worker_id(context_.worker_id);
      accepted.mutable_accepted()->set_numerics_id(context_.numerics_id);
      accepted.mutable_accepted()->set_attempt(start.attempt());
      outgoing_.push_back(std::move(accepted));
    }
    absl::Status failed;
    for (size_t i = 0; i < count && failed.ok(); ++i)
      failed = SubmitOne(std::move((*requests)[i]), static_cast<uint32_t>(i), start);
    if (!failed.ok()) {
      // All or nothing: sequences that were taken end cancelled, and the stream with this status.
      CancelAll();
      return failed;
    }
    std::lock_guard lock(mutex_);
    WriteNextLocked();
    return absl::OkStatus();
  }

  absl::Status SubmitOne(engine::Request request, uint32_t index, const v1::GenerateStart& start) {
    absl::StatusOr<Spool::Reservation> reservation = context_.witness->Reserve();
    if (!reservation.ok()) return reservation.status();
    BoardSlot initial{};
    std::copy_n(start.request_id().data(), sizeof(initial.request_id), reinterpret_cast<char*>(initial.request_id));
    std::copy_n(start.hold_id().data(), sizeof(initial.hold_id), reinterpret_cast<char*>(initial.hold_id));
    std::copy_n(start.tenant().data(), sizeof(initial.tenant), reinterpret_cast<char*>(initial.tenant));
    initial.attempt = start.attempt();
    initial.sequence = index;
    initial.from_index = initial.to_index = request.ids.size() - static_cast<size_t>(request.generated_from);
    initial.prompt_tokens = static_cast<uint64_t>(request.generated_from);
    absl::StatusOr<BoardSlot*> slot = context_.witness->board().Take(initial);
    if (!slot.ok()) return slot.status();
    auto sink = std::make_shared<SequenceSink>(shared_from_this(), index, *slot, std::move(*reservation), context_);
    absl::StatusOr<engine::RequestId> id = context_.engine->Submit(std::move(request), std::move(sink));
    if (!id.ok()) {
      context_.witness->board().Release(*slot);
      std::lock_guard lock(mutex_);
      --open_sequences_;
      return id.status();
    }
    std::lock_guard lock(mutex_);
    ids_[index] = *id;
    return absl::OkStatus();
  }

  engine::RequestId IdOf(uint32_t sequence) {
    std::lock_guard lock(mutex_);
    return sequence < ids_.size() ? ids_[sequence] : 0;
  }

  void CancelAll() {
    std::vector<engine::RequestId> ids;
    {
      std::lock_guard lock(mutex_);
      ids = ids_;
    }
    for (const engine::RequestId id : ids) {
      if (id != 0) context_.engine->Cancel(id);
    }
  }

  void SendWaitingLocked(uint32_t sequence) {
    Waiting& waiting = waiting_[sequence];
    if (!waiting.frame.has_tokens()) return;
    outgoing_.push_back(std::move(waiting.frame));
    waiting.frame.Clear();
    waiting.last_sent = Clock::now();
  }

  bool HasTurnLocked(uint32_t sequence) const {
    return Clock::now() - waiting_[sequence].last_sent >= context_.pacer->Interval();
  }

  void LookLaterLocked() {
    if (std::exchange(looking_, true)) return;
    context_.delayed->After(kLookForLeftBehind, [weak = weak_from_this()] {
      if (const std::shared_ptr<GenerateCall> call = weak.lock()) call->LookForLeftBehind();
    });
  }

  void LookForLeftBehind() {
    std::lock_guard lock(mutex_);
    looking_ = false;
    for (uint32_t i = 0; i < waiting_.size() && !broken_; ++i) {
      if (!waiting_[i].frame.has_tokens()) continue;
      if (HasTurnLocked(i)) {
        SendWaitingLocked(i);
      } else {
        LookLaterLocked();
      }
    }
    WriteNextLocked();
  }

  // Starts the next write, or finishes the stream when there is nothing left to come.
  void WriteNextLocked() {
    if (writing_ || finish_called_ || !started_) return;
    if (broken_) {
      FinishLocked(grpc::Status::CANCELLED);
      return;
    }
    if (!outgoing_.empty()) {
      writing_ = true;
      current_ = std::move(outgoing_.front());
      outgoing_.pop_front();
      StartWrite(&current_);
      return;
    }
    if (open_sequences_ == 0) FinishLocked(grpc::Status::OK);
  }

  void FinishLocked(const grpc::Status& status) {
    if (finish_called_) return;
    if (writing_) {
      // Never with a write outstanding: OnWriteDone comes back here.
      broken_ = true;
      outgoing_.clear();
      return;
    }
    finish_called_ = true;
    broken_ = broken_ || !status.ok();
    Finish(status);
  }

  const GenerateContext& context_;
  std::string request_id_, hold_id_, tenant_;  // set before the first Submit, then constant
  uint32_t attempt_ = 0;
  v1::GenerateClientMessage incoming_;

  std::mutex mutex_;  // guards what follows
  std::shared_ptr<GenerateCall> self_;
  std::deque<v1::GenerateServerMessage> outgoing_;
  v1::GenerateServerMessage current_;
  std::vector<engine::RequestId> ids_;  // by sequence; 0: not submitted
  std::vector<uint64_t> acked_;
  struct Waiting {
    v1::GenerateServerMessage frame;  // tokens that are not in outgoing_ yet; none: nothing waits
    Clock::time_point last_sent{};
  };
  std::vector<Waiting> waiting_;  // by sequence
  bool looking_ = false;          // a delayed call to LookForLeftBehind is due
  int open_sequences_ = 0;
  bool started_ = false, writing_ = false, broken_ = false, finish_called_ = false;
};

bool SequenceSink::OnTokens(const engine::TokenEvent& event) {
  // Stored first: after a kill the board must not know less than the reader.
  WitnessBoard::Advance(slot_, static_cast<uint64_t>(event.counts.generated),
                        static_cast<uint64_t>(event.counts.cached));
  return call_->PushTokens(index_, event);
}

void SequenceSink::OnFinish(const engine::FinishEvent& event) {
  const GenerateContext& context = call_->context();
  const double joules = energy_.Joules(event.device_ms);
  v1::WitnessRecord record;
  record.set_request_id(call_->request_id());
  record.set_hold_id(call_->hold_id());
  record.set_party_id(call_->tenant());
  record.set_attempt(call_->attempt());
  record.set_sequence(index_);
  record.set_from_index(slot_->from_index);
  record.set_to_index(static_cast<uint64_t>(event.counts.generated));
  record.set_prompt_tokens(static_cast<uint64_t>(event.counts.prompt));
  record.set_cached_tokens(static_cast<uint64_t>(event.counts.cached));
  record.set_recomputed_tokens(static_cast<uint64_t>(event.counts.recomputed));
  record.set_drafted_tokens(static_cast<uint64_t>(event.counts.drafted));
  record.set_accepted_tokens(static_cast<uint64_t>(event.counts.accepted));
  record.set_device_ms(event.device_ms);
  record.set_joules(joules);
  record.set_finish_reason(ReasonOf(event.reason));
  record.set_model(context.model);
  context.witness->Add(std::move(record), std::move(reservation_));
  context.witness->board().Release(slot_);

  v1::GenerateServerMessage frame;
  v1::Finish* finish = frame.mutable_finish();
  finish->set_sequence(index_);
  finish->set_reason(ReasonOf(event.reason));
  FillCounts(event.counts, finish->mutable_counts());
  if (event.stop_id >= 0) finish->set_stop_id(static_cast<uint32_t>(event.stop_id));
  if (!event.status.ok()) finish->set_message(std::string(event.status.message()));
  finish->set_queue_ms(event.queue_ms);
  finish->set_prefill_ms(event.prefill_ms);
  finish->set_decode_ms(event.decode_ms);
  finish->set_device_ms(event.device_ms);
  finish->set_joules(joules);
  call_->PushFinish(index_, std::move(frame));
}

}  // namespace

GenerateReactor* StartGenerateCall(const GenerateContext* context) {
  auto call = std::make_shared<GenerateCall>(context);
  GenerateCall* raw = call.get();
  raw->Begin(std::move(call));
  return raw;
}

}  // namespace gantry::worker
