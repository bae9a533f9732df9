// Continuous batching: which sequences run in the next round, and what becomes of its results.
//
// Each round is one mixed batch: a row group for every decoding sequence (its anchor and drafts) and prefill chunks up
// to a row budget, oldest first. A request that does not fit waits; pages for its whole length are reserved when it
// starts, so a running sequence never has to give way. Cancellation, deadlines and limits take effect at the next
// round, also inside a prompt. A sink that is full pauses its own sequence alone.
//
// Threads: none of its own; one thread calls everything. Time comes in as an argument.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/cache/page_pool.h"
#include "engine/engine.h"

namespace gantry::engine {

struct SchedulerOptions {
  int max_context = 0;
  int prefill_chunk_rows = 256;
  int draft_depth = 0;
  absl::Duration sink_patience = absl::Seconds(2);
};

class Scheduler {
 public:
  // `backend` must outlive the scheduler.
  Scheduler(Backend* backend, int kv_pages, const SchedulerOptions& options);
  // Ends whatever is left as cancelled.
  ~Scheduler();

  // Why this request can never run; OK when it can. Thread-safe: reads only what never changes.
  absl::Status Check(const Request& request) const;

  // REQUIRES: Check(request).ok(). Higher priority first, then first come, first served.
  void Add(RequestId id, Request request, std::shared_ptr<Sink> sink, absl::Time now);
  void Cancel(RequestId id);
  void RaiseLimit(RequestId id, int until_index);
  void CancelAll();

  struct Outcome {
    bool progressed = false;  // a round ran; call again at once
    absl::Time wake_at =
        absl::InfiniteFuture();  // else: nothing changes before this time or the next call of Add & co.
    StepRecord record;           // of the round that ran
  };
  Outcome Step(absl::Time now);

  bool empty() const { return waiting_.empty() && running_.empty(); }
  void FillStats(EngineStats* stats) const;

 private:
  struct Sequence;
  using SequencePtr = std::unique_ptr<Sequence>;

  Sequence* Find(RequestId id);
  void DropEnded(absl::Time now);
  void AdmitWaiting(absl::Time now);
  bool Plan(absl::Time now, StepRecord* record);
  void Take(const SequenceResult& result, const SequencePlan& plan, Sequence* sequence, absl::Time now);
  bool Deliver(Sequence* sequence, absl::Time now);
  void Finish(Sequence* sequence, absl::Time now);
  int PagesFor(const Request& request) const;
  int IdLimit(const Sequence& sequence) const;

  Backend* backend_;
  SchedulerOptions options_;
  PagePool pages_;
  int kv_pages_;
  std::deque<SequencePtr> waiting_;
  std::vector<SequencePtr> running_;  // in order of admission
  std::vector<SequenceSlot> free_slots_;
  RoundPlan plan_;
  std::vector<Sequence*> planned_;
  Counts totals_;
  int64_t finished_[6] = {};
  int64_t rounds_ = 0;
  double last_round_ms_ = 0;
};

}  // namespace gantry::engine
