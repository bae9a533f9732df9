#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/base/status_macros.h"
#include "engine/model/model.h"
#include "engine/sched/scheduler.h"
#include "engine/spec/composed_backend.h"
#include "engine/spec/spec_mode.h"

namespace gantry::engine {
namespace {

constexpr int64_t kCacheBytesDefault = int64_t{512} << 20;
constexpr size_t kStepRecordsKept = 256;

// What callers asked for since the last round.
struct Command {
  enum class Kind { kSubmit, kCancel, kRaise, kSpeculate } kind;
  RequestId id = 0;
  Request request;
  std::shared_ptr<Sink> sink;
  int until_index = 0;
  SpecMode spec;
};

class EngineImpl final : public Engine {
 public:
  EngineImpl(Card card, std::unique_ptr<Backend> backend, const SchedulerOptions& scheduler_options,
             const SpecMode& spec, int max_queued)
      : card_(std::move(card)),
        backend_(std::move(backend)),
        scheduler_(backend_.get(), scheduler_options, spec),
        drafts_by_mtp_(spec.mtp),
        max_queued_(max_queued),
        records_(kStepRecordsKept) {
    page_hashes_.reserve(scheduler_options.cache.pages);
    for (auto* events : {&events_, &new_events_}) events->reserve(PrefixTree::kEventsKept);
    thread_ = std::thread([this] { Loop(); });
  }

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
    commands_.push_back(
        Command{.kind = Command::Kind::kSubmit, .id = id, .request = std::move(request), .sink = std::move(sink)});
    lock.unlock();
    wake_.notify_one();
    return id;
  }

  void RaiseLimit(RequestId id, int until_index) override {
    Push(Command{.kind = Command::Kind::kRaise, .id = id, .until_index = until_index});
  }
  void Cancel(RequestId id) override { Push(Command{.kind = Command::Kind::kCancel, .id = id}); }

  absl::Status SetSpeculation(SpecMode mode) override {
    if (mode.depth > card_.draft_depth || (mode.mtp && !drafts_by_mtp_)) {
      return absl::InvalidArgumentError(absl::StrCat("spec `", mode.name, "` drafts ", mode.depth, " ids",
                                                     mode.mtp ? " by the MTP layer" : "", ", the engine was made for ",
                                                     card_.draft_depth, drafts_by_mtp_ ? " by the MTP layer" : ""));
    }
    std::unique_lock lock(mutex_);
    // A request that had its OnFinish is forgotten a moment later.
    if (!idle_.wait_for(lock, std::chrono::milliseconds(100), [this] { return unfinished_ == 0; })) {
      return absl::FailedPreconditionError(
          absl::StrCat("speculation cannot change now: ", unfinished_, " requests run"));
    }
    // Taken before any request that is submitted later.
    commands_.push_back(Command{.kind = Command::Kind::kSpeculate, .spec = std::move(mode)});
    return absl::OkStatus();
  }

  const Card& card() const override { return card_; }

  EngineStats Stats() const override {
    std::lock_guard lock(mutex_);
    EngineStats stats = stats_;
    for (const Command& command : commands_) stats.queued += command.kind == Command::Kind::kSubmit;
    return stats;
  }

  std::vector<StepRecord> StepRecords() const override {
    std::lock_guard lock(mutex_);
    std::vector<StepRecord> records;
    for (size_t i = rounds_ < kStepRecordsKept ? 0 : rounds_ - kStepRecordsKept; i < rounds_; ++i) {
      records.push_back(records_[i % kStepRecordsKept]);
    }
    return records;
  }

  absl::StatusOr<std::vector<PageEvent>> Events(int64_t since) const override {
    std::lock_guard lock(mutex_);
    const int64_t oldest = events_.empty() ? last_event_ : events_[static_cast<size_t>(event_begin_)].number - 1;
    if (since > last_event_ || since < oldest) {
      return absl::OutOfRangeError(absl::StrCat("page events after ", since, " were asked for, kept are those after ",
                                                oldest, " up to ", last_event_));
    }
    std::vector<PageEvent> events;
    for (size_t i = 0; i < events_.size(); ++i) {
      const PageEvent& event = events_[(static_cast<size_t>(event_begin_) + i) % events_.size()];
      if (event.number > since) events.push_back(event);
    }
    return events;
  }

  PageSet PageHashes() const override {
    std::lock_guard lock(mutex_);
    return {last_event_, {page_hashes_.begin(), page_hashes_.end()}};
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
        records_[rounds_++ % kStepRecordsKept] = outcome.record;
        PublishEvents();
      }
    }
    scheduler_.Step(absl::Now());  // hands every sink its end
  }

  // Under mutex_: what the prefix tree recorded since the last time.
  void PublishEvents() {
    if (scheduler_.tree().last_event() == last_event_) return;
    new_events_.clear();
    // A round that moved more pages than the tree keeps events of is told as a fresh set.
    if (!scheduler_.tree().Events(last_event_, &new_events_)) {
      events_.clear();
      event_begin_ = 0;
      page_hashes_.clear();
      for (const uint64_t hash : scheduler_.tree().Contents()) page_hashes_.insert(hash);
    }
    for (const PageEvent& event : new_events_) {
      if (event.stored) {
        page_hashes_.insert(event.hash);
      } else {
        page_hashes_.erase(event.hash);
      }
      if (events_.size() < PrefixTree::kEventsKept) {
        events_.push_back(event);
      } else {
        events_[static_cast<size_t>(event_begin_)] = event;
        event_begin_ = (event_begin_ + 1) % PrefixTree::kEventsKept;
      }
    }
    last_event_ = scheduler_.tree().last_event();
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
      case Command::Kind::kSpeculate:
        scheduler_.SetSpeculation(command.spec);
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
  const bool drafts_by_mtp_;
  const int max_queued_;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable wake_, idle_;
  std::deque<Command> commands_;
  std::vector<StepRecord> records_;  // a ring; rounds_ have been written
  size_t rounds_ = 0;
  std::vector<PageEvent> events_, new_events_;  // events_: a ring that begins at event_begin_
  int64_t event_begin_ = 0, last_event_ = 0;
  absl::flat_hash_set<uint64_t> page_hashes_;
  EngineStats stats_;
  RequestId last_id_ = 0;
  int queued_ = 0;
  int64_t unfinished_ = 0;  // submitted, OnFinish not yet called
  int64_t ended_ = 0;
  bool draining_ = false, stopping_ = false, cancel_all_ = false;

  std::thread thread_;  // last: starts when everything above exists
};

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
  GANTRY_ASSIGN_OR_RETURN(const KvType kv_type, KvTypeNamed("kv_type", options.kv_type));
  GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, LoadModel(options.model_path));
  const ModelSpec& spec = model->spec;
  GANTRY_ASSIGN_OR_RETURN(SpecMode mode, SpecMode::Parse(options.spec.mode, spec.mtp.has_value()));
  if (options.max_context > spec.max_context) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_context is ", options.max_context, ", the model has ", spec.max_context, " positions"));
  }
  const int max_context = options.max_context == 0 ? spec.max_context : options.max_context;

  const CacheCosts costs = options.backend == "reference" ? ReferenceCacheCosts(spec) : CpuCacheCosts(spec, kv_type);
  const CacheWish wish{.cache_bytes = options.cache_bytes == 0 ? kCacheBytesDefault : options.cache_bytes,
                       .sequences = options.max_sequences,
                       .draft_depth_max = mode.depth,
                       .max_context = max_context + 2 * mode.depth,
                       .prefix_cache = options.prefix_cache,
                       .hidden_bytes = mode.mtp ? int64_t{spec.hidden} * static_cast<int64_t>(sizeof(float)) : 0};
  GANTRY_ASSIGN_OR_RETURN(const CachePlan plan, PlanCaches(costs, wish));

  ComposedOptions composed;
  composed.max_sequences = options.max_sequences;
  composed.max_rows = options.prefill_chunk_rows + options.max_sequences * (1 + mode.depth);
  composed.draft_depth_max = mode.depth;
  composed.draft_slots = plan.draft_slots;
  composed.snapshots = plan.snapshots;
  composed.mtp = mode.mtp;
  composed.vocab_used = options.vocab_used;
  BlocksLimits limits = LimitsFor(composed, plan.kv_pages, options.threads);
  limits.kv_type = kv_type;
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<Blocks> blocks, MakeBlocks(options.backend, model, limits));
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend,
                          MakeComposedBackend(std::move(blocks), std::move(composed)));

  Card card;
  card.spec = spec;
  card.model_path = model->path;
  card.numerics_id = backend->numerics_id();
  card.parameters = model->parameters;
  card.weight_bytes = model->weight_bytes;
  card.max_context = max_context;
  card.max_sequences = options.max_sequences;
  card.draft_depth = mode.depth;
  SchedulerOptions scheduler_options;
  scheduler_options.max_context = max_context;
  scheduler_options.prefill_chunk_rows = options.prefill_chunk_rows;
  scheduler_options.cache = {.pages = plan.kv_pages,
                             .snapshots = plan.snapshots,
                             .needs_snapshot = wish.hidden_bytes + costs.state_slot_bytes > 0,
                             .prefix_cache = options.prefix_cache};
  // A snapshot is worth no more bytes than the pages between it and the next.
  const int64_t snapshot_pages =
      (wish.hidden_bytes + costs.state_slot_bytes) / std::max<int64_t>(1, costs.kv_page_bytes) + 1;
  scheduler_options.snapshot_interval =
      std::max<int>(scheduler_options.snapshot_interval, static_cast<int>(snapshot_pages) * kKvPageTokens);
  return std::make_unique<EngineImpl>(std::move(card), std::move(backend), scheduler_options, mode, options.max_queued);
}

}  // namespace gantry::engine
