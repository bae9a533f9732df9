// Continuous batching: which sequences run in the next round, and what becomes of its results.
//
// Each round is one mixed batch: a row group for every decoding sequence (its last id and drafts) and prefill chunks up
// to a row budget that measured cost sets, oldest first. A request starts when pages for its prompt are there; what it
// has in common with earlier ones comes from the prefix cache, and one whose prefix is being computed right now waits
// for it. Decoding sequences get pages as they grow; when there are none left, the lowest-ranking one gives up its own
// and is computed again later. Cancellation, deadlines and limits take effect at the next round, also inside a prompt.
// A sink that is full pauses its own sequence alone.
//
// Threads: none of its own; one thread calls everything. Time comes in as an argument. Nothing allocates in a round
// that only decodes.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/cache/kv_cache.h"
#include "engine/engine.h"
#include "engine/sched/sequence.h"
#include "engine/sched/speculator.h"

namespace gantry::engine {

struct SchedulerOptions {
  int max_context = 0;
  int prefill_chunk_rows = 256;  // at most; a chunk also keeps to chunk_time
  absl::Duration chunk_time = absl::Milliseconds(100);
  absl::Duration sink_patience = absl::Seconds(2);
  KvCache::Options cache;
  // At least so many tokens between snapshots that nobody asked for.
  int snapshot_interval = 512;
};

class Scheduler {
 public:
  // `backend` must outlive the scheduler.
  Scheduler(Backend* backend, const SchedulerOptions& options, const SpecMode& spec);
  // Ends whatever is left as cancelled.
  ~Scheduler();

  // Of requests to come; what each mode, by its name, has learned of costs and acceptance is kept. REQUIRES: empty(),
  // and the backend can draft so deep and in this way.
  void SetSpeculation(const SpecMode& mode);

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
  const PrefixTree& tree() const { return cache_.tree(); }

 private:
  using SequencePtr = std::unique_ptr<Sequence>;

  Sequence* Find(RequestId id);
  int IdLimit(const Sequence& sequence) const;
  int PositionsMax(const Request& request) const;
  void Queue(SequencePtr sequence);

  // One step, in this order.
  void DropEnded(absl::Time now);
  void AdmitWaiting(absl::Time now);
  void GrowOrPreempt();
  bool Plan(StepRecord* record);
  void Take(const SequenceResult& result, const SequencePlan& plan, Sequence* sequence, absl::Time now);

  bool PrefixIsBeingComputed(const Sequence& sequence) const;
  bool Start(Sequence* sequence);
  void ChooseSnapshotPoints(Sequence* sequence) const;
  void Preempt(Sequence* sequence);
  void Leave(Sequence* sequence, bool wipe);
  void PlanDecode(Sequence* sequence, StepRecord* record);
  int PlanPrefill(Sequence* sequence, int rows_max, StepRecord* record);
  void TakeSnapshot(const SequencePlan& plan, bool taken, Sequence* sequence);
  void LearnCost(const RoundResult& result, const StepRecord& record);
  void ShareTime(const RoundResult& result);
  void Count(const RoundResult& result);
  bool Deliver(Sequence* sequence, absl::Time now);
  void Finish(Sequence* sequence, absl::Time now);

  Backend* backend_;
  SchedulerOptions options_;
  KvCache cache_;
  std::map<std::string, Speculator> speculators_;
  Speculator* speculator_ = nullptr;  // the one at work
  std::deque<SequencePtr> waiting_;
  std::vector<SequencePtr> running_;
  std::vector<SequenceSlot> free_slots_;
  RoundPlan plan_;
  std::vector<Sequence*> planned_;
  std::vector<Speculator::Track*> tracks_;
  double prefill_row_ms_ = 0;  // measured; 0: not yet
  double decode_ms_ = 0;       // of rounds without prefill
  EngineStats totals_;
};

}  // namespace gantry::engine
