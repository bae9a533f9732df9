#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/base/status_macros.h"
#include "engine/model/model.h"
#include "engine/sched/scheduler.h"
#include "engine/spec/composed_backend.h"

namespace gantry::engine {
namespace {

constexpr int64_t kCacheBytesDefault = int64_t{512} << 20;
constexpr int kDraftDepthMax = 5;
constexpr size_t kStepRecordsKept = 256;

// What callers asked for since the last round.
struct Command {
  enum class Kind { kSubmit, kCancel, kRaise } kind;
  RequestId id = 0;
  Request request;
  std::shared_ptr<Sink> sink;
  int until_index = 0;
};

class EngineImpl final : public Engine {
 public:
  EngineImpl(Card card, std::unique_ptr<Backend> backend, int kv_pages, const SchedulerOptions& scheduler_options,
             int max_queued)
      : card_(std::move(card)),
        backend_(std::move(backend)),
        scheduler_(backend_.get(), kv_pages, scheduler_options),
        max_queued_(max_queued),
        thread_([this] { Loop(); }) {}

  ~EngineImpl() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  absl::StatusOr<RequestId> Submit(Request request, std::shared_ptr<Sink> sink) override {
    GANTRY_RETURN_IF_ERROR(scheduler_.Check(request));
    std::unique_lock lock(mutex_);
    if (draining_) return absl::UnavailableError("the engine is draining and takes no new requests");
    if (queued_ >= max_queued_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the engine's queue is full: ", queued_, " of ", max_queued_, " waiting"));
    }
    const RequestId id = ++last_id_;
    ++queued_;
    ++unfinished_;
    commands_.push_back(Command{Command::Kind::kSubmit, id, std::move(request), std::move(sink), 0});
    lock.unlock();
    wake_.notify_one();
    return id;
  }

  void RaiseLimit(RequestId id, int until_index) override {
    Push(Command{Command::Kind::kRaise, id, {}, nullptr, until_index});
  }
  void Cancel(RequestId id) override { Push(Command{Command::Kind::kCancel, id, {}, nullptr, 0}); }

  const Card& card() const override { return card_; }

  EngineStats Stats() const override {
    std::lock_guard lock(mutex_);
    EngineStats stats = stats_;
    for (const Command& command : commands_) stats.queued += command.kind == Command::Kind::kSubmit;
    return stats;
  }

  std::vector<StepRecord> StepRecords() const override {
    std::lock_guard lock(mutex_);
    return {records_.begin(), records_.end()};
  }

  void Drain(absl::Time deadline) override {
    std::unique_lock lock(mutex_);
    draining_ = true;
    const auto until = absl::ToChronoTime(std::min(deadline, absl::Now() + absl::Hours(24)));
    if (!idle_.wait_until(lock, until, [this] { return unfinished_ == 0; })) {
      cancel_all_ = true;
      wake_.notify_one();
      idle_.wait(lock, [this] { return unfinished_ == 0; });
    }
  }

 private:
  void Push(Command command) {
    {
      std::lock_guard lock(mutex_);
      commands_.push_back(std::move(command));
    }
    wake_.notify_one();
  }

  // The one thread that touches scheduler and backend.
  void Loop() {
    std::deque<Command> taken;
    absl::Time wake_at = absl::InfiniteFuture();
    bool progressed = false;
    while (true) {
      {
        std::unique_lock lock(mutex_);
        scheduler_.FillStats(&stats_);
        const int64_t ended = Ended();
        unfinished_ -= ended - ended_;
        ended_ = ended;
        queued_ = stats_.queued;
        for (const Command& command : commands_) queued_ += command.kind == Command::Kind::kSubmit;
        if (unfinished_ == 0) idle_.notify_all();
        if (!progressed && commands_.empty() && !stopping_ && !cancel_all_) {
          const auto ready = [this] { return !commands_.empty() || stopping_ || cancel_all_; };
          if (wake_at == absl::InfiniteFuture()) {
            wake_.wait(lock, ready);
          } else {
            wake_.wait_until(lock, absl::ToChronoTime(wake_at), ready);
          }
        }
        std::swap(taken, commands_);
        if (stopping_ || cancel_all_) {
          cancel_all_ = false;
          for (Command& command : taken) Apply(command);
          taken.clear();
          scheduler_.CancelAll();
          if (stopping_) break;
        }
      }
      for (Command& command : taken) Apply(command);
      taken.clear();
      const Scheduler::Outcome outcome = scheduler_.Step(absl::Now());
      progressed = outcome.progressed;
      wake_at = outcome.wake_at;
      if (progressed) {
        std::lock_guard lock(mutex_);
        records_.push_back(outcome.record);
        if (records_.size() > kStepRecordsKept) records_.pop_front();
      }
    }
    scheduler_.Step(absl::Now());  // hands every sink its end
  }

  void Apply(Command& command) {
    switch (command.kind) {
      case Command::Kind::kSubmit:
        scheduler_.Add(command.id, std::move(command.request), std::move(command.sink), absl::Now());
        break;
      case Command::Kind::kCancel:
        scheduler_.Cancel(command.id);
        break;
      case Command::Kind::kRaise:
        scheduler_.RaiseLimit(command.id, command.until_index);
        break;
    }
  }

  int64_t Ended() const {
    int64_t sum = 0;
    for (const int64_t count : stats_.finished) sum += count;
    return sum;
  }

  const Card card_;
  const std::unique_ptr<Backend> backend_;
  Scheduler scheduler_;  // Check() from any thread, the rest from thread_ alone
  const int max_queued_;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable wake_, idle_;
  std::deque<Command> commands_;
  std::deque<StepRecord> records_;
  EngineStats stats_;
  RequestId last_id_ = 0;
  int queued_ = 0;
  int64_t unfinished_ = 0;  // submitted, OnFinish not yet called
  int64_t ended_ = 0;
  bool draining_ = false, stopping_ = false, cancel_all_ = false;

  std::thread thread_;  // last: starts when everything above exists
};

// "off", "auto", "mtp:K" -> drafts a round.
absl::StatusOr<int> DraftDepth(const std::string& mode, bool has_mtp) {
  if (mode == "off") return 0;
  if (mode == "auto") return has_mtp ? 1 : 0;
  absl::string_view rest = mode;
  int depth = 0;
  if (absl::ConsumePrefix(&rest, "mtp:") && absl::SimpleAtoi(rest, &depth) && depth >= 1 && depth <= kDraftDepthMax) {
    if (!has_mtp)
      return absl::InvalidArgumentError(absl::StrCat("spec is ", mode, ", but the model has no MTP layer; use off"));
    return depth;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("spec is `", mode, "`, expected off, auto or mtp:K with K in [1, ", kDraftDepthMax, "]"));
}

absl::StatusOr<std::unique_ptr<Blocks>> MakeBlocks(const std::string& backend, std::shared_ptr<const Model> model,
                                                   const BlocksLimits& limits) {
  if (backend == "reference") return MakeReferenceBlocks(std::move(model), limits);
  if (backend == "cpu") return MakeCpuBlocks(std::move(model), limits);
  return absl::InvalidArgumentError(absl::StrCat("backend is `", backend, "`, expected reference or cpu"));
}

absl::Status CheckOptions(const EngineOptions& options) {
  const auto in_range = [](const char* field, int64_t value, int64_t min, int64_t max) {
    if (value >= min && value <= max) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(field, " is ", value, ", expected a value in [", min, ", ", max, "]"));
  };
  absl::Status status = in_range("max_sequences", options.max_sequences, 1, 1024);
  status.Update(in_range("max_queued", options.max_queued, 0, 1 << 20));
  status.Update(in_range("prefill_chunk_rows", options.prefill_chunk_rows, 1, 1 << 16));
  status.Update(in_range("cache_bytes", options.cache_bytes, 0, INT64_MAX));
  status.Update(in_range("threads", options.threads, 0, 4096));
  status.Update(in_range("max_context", options.max_context, 0, 1 << 24));
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options) {
  GANTRY_RETURN_IF_ERROR(CheckOptions(options));
  GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, LoadModel(options.model_path));
  const ModelSpec& spec = model->spec;
  GANTRY_ASSIGN_OR_RETURN(const int depth, DraftDepth(options.spec.mode, spec.mtp.has_value()));
  if (options.max_context > spec.max_context) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_context is ", options.max_context, ", the model has ", spec.max_context, " positions"));
  }
  const int max_context = options.max_context == 0 ? spec.max_context : options.max_context;

  ComposedOptions composed;
  composed.max_sequences = options.max_sequences;
  composed.max_rows = options.prefill_chunk_rows + options.max_sequences * (1 + depth);
  composed.draft_depth_max = depth;
  composed.vocab_used = options.vocab_used;
  const CacheCosts costs =
      options.backend == "reference" ? ReferenceCacheCosts(spec) : CpuCacheCosts(spec, BlocksLimits{}.kv_type);
  GANTRY_ASSIGN_OR_RETURN(const CachePlan plan,
                          PlanCaches(costs, options.cache_bytes == 0 ? kCacheBytesDefault : options.cache_bytes,
                                     options.max_sequences, StateSlotsPerSequence(composed), max_context + depth));
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<Blocks> blocks,
                          MakeBlocks(options.backend, model, LimitsFor(composed, plan.kv_pages, options.threads)));
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, MakeComposedBackend(std::move(blocks), composed));

  Card card;
  card.spec = spec;
  card.model_path = model->path;
  card.numerics_id = backend->numerics_id();
  card.parameters = model->parameters;
  card.weight_bytes = model->weight_bytes;
  card.max_context = max_context;
  card.max_sequences = options.max_sequences;
  card.draft_depth = depth;
  SchedulerOptions scheduler_options;
  scheduler_options.max_context = max_context;
  scheduler_options.prefill_chunk_rows = options.prefill_chunk_rows;
  scheduler_options.draft_depth = depth;
  return std::make_unique<EngineImpl>(std::move(card), std::move(backend), plan.kv_pages, scheduler_options,
                                      options.max_queued);
}

}  // namespace gantry::engine
