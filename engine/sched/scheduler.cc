#include "engine/sched/scheduler.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/check.h"

namespace gantry::engine {
namespace {

constexpr int kChunkRowsMin = 16;

}  // namespace

Scheduler::Scheduler(Backend* backend, const SchedulerOptions& options, const SpecMode& spec)
    : backend_(backend), options_(options), cache_(options.cache) {
  const int sequences = backend->max_sequences();
  free_slots_.resize(sequences);
  std::iota(free_slots_.rbegin(), free_slots_.rend(), 0);
  running_.reserve(sequences);
  plan_.sequences.reserve(sequences);
  planned_.reserve(sequences);
  tracks_.reserve(sequences);
  totals_.experts_read.resize(backend->spec().trunk_layers());
  SetSpeculation(spec);
}

void Scheduler::SetSpeculation(const SpecMode& mode) {
  GANTRY_CHECK(empty(), "speculation changes between requests");
  GANTRY_CHECK(mode.depth <= backend_->max_draft_depth(), "the backend verifies so many drafts");
  speculator_ =
      &speculators_.try_emplace(mode.name, mode, backend_->max_sequences(), options_.prefill_chunk_rows).first->second;
}

Scheduler::~Scheduler() {
  CancelAll();
  DropEnded(absl::InfiniteFuture());
}

// Positions that the request may come to use: its longest output, and drafts beyond it.
int Scheduler::PositionsMax(const Request& request) const {
  const int64_t longest = static_cast<int64_t>(request.generated_from) + request.max_tokens;
  return static_cast<int>(std::min<int64_t>(longest, options_.max_context)) + 2 * backend_->max_draft_depth();
}

absl::Status Scheduler::Check(const Request& request) const {
  const int size = static_cast<int>(request.ids.size());
  if (size == 0) return absl::InvalidArgumentError("ids is empty, expected at least one token");
  if (size >= options_.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("ids has ", size, " tokens, expected at most ",
                                                   options_.max_context - 1, " (the context is ", options_.max_context,
                                                   " tokens and one must be left to generate)"));
  }
  const int vocab_rows = backend_->spec().vocab_rows;
  for (int i = 0; i < size; ++i) {
    if (request.ids[i] < 0 || request.ids[i] >= vocab_rows) {
      return absl::InvalidArgumentError(
          absl::StrCat("ids[", i, "] is ", request.ids[i], ", expected a value in [0, ", vocab_rows - 1, "]"));
    }
  }
  if (request.generated_from < 1 || request.generated_from > size) {
    return absl::InvalidArgumentError(
        absl::StrCat("generated_from is ", request.generated_from, ", expected a value in [1, ", size, "]"));
  }
  if (request.max_tokens <= size - request.generated_from) {
    return absl::InvalidArgumentError(absl::StrCat("max_tokens is ", request.max_tokens, ", expected more than the ",
                                                   size - request.generated_from, " tokens generated already"));
  }
  if (request.until_index < 0) return absl::InvalidArgumentError("until_index is negative");
  if (absl::Status status = request.sampling.Validate(vocab_rows); !status.ok()) return status;
  const int pages = (PositionsMax(request) + kKvPageTokens - 1) / kKvPageTokens;
  if (pages > cache_.pages()) {
    return absl::InvalidArgumentError(absl::StrCat("the request needs ", pages, " cache pages of ", kKvPageTokens,
                                                   " tokens, the engine has ", cache_.pages(), "; lower max_tokens"));
  }
  if (request.cache_points.size() > 4) {
    return absl::InvalidArgumentError(
        absl::StrCat("cache_points has ", request.cache_points.size(), " entries, expected at most 4"));
  }
  return absl::OkStatus();
}

void Scheduler::Add(RequestId id, Request request, std::shared_ptr<Sink> sink, absl::Time now) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->submitted = now;
  sequence->sink = std::move(sink);
  // Room for everything that rounds will append.
  const int longest = PositionsMax(request);
  sequence->ids.reserve(longest);
  sequence->ids = request.ids;
  sequence->kv.salt = SaltHash(request.cache_salt);
  const int pages = (longest + 2 * kDraftDepthMax + kKvPageTokens) / kKvPageTokens;
  sequence->kv.pages.reserve(pages);
  sequence->kv.path.reserve(pages);
  sequence->pending_ids.reserve(1 + kDraftDepthMax);
  if (request.sampling.logprobs) sequence->pending_logprobs.reserve(1 + kDraftDepthMax);
  const int earlier = sequence->size() - request.generated_from;
  if (earlier > 0) {
    sequence->recompute_from = request.generated_from;
    sequence->recompute_to = sequence->size();
  }
  sequence->counts.prompt = request.generated_from;
  sequence->counts.generated = earlier;
  sequence->request = std::move(request);
  Queue(std::move(sequence));
}

void Scheduler::Queue(SequencePtr sequence) {
  const auto place = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const SequencePtr& other) { return sequence->Outranks(*other); });
  waiting_.insert(place, std::move(sequence));
}

Sequence* Scheduler::Find(RequestId id) {
  for (const SequencePtr& sequence : running_) {
    if (sequence->id == id) return sequence.get();
  }
  for (const SequencePtr& sequence : waiting_) {
    if (sequence->id == id) return sequence.get();
  }
  return nullptr;
}

void Scheduler::Cancel(RequestId id) {
  Sequence* sequence = Find(id);
  if (sequence == nullptr) return;
  // What the sink has not taken is not wanted any more.
  sequence->pending_ids.clear();
  sequence->ending = false;
  sequence->End(FinishReason::kCancelled);
}

void Scheduler::CancelAll() {
  for (const SequencePtr& sequence : running_) Cancel(sequence->id);
  for (const SequencePtr& sequence : waiting_) Cancel(sequence->id);
}

void Scheduler::RaiseLimit(RequestId id, int until_index) {
  Sequence* sequence = Find(id);
  if (sequence == nullptr || until_index <= sequence->request.until_index) return;
  sequence->request.until_index = until_index;
  sequence->credit_wait_since = absl::InfiniteFuture();
}

// How many ids the sequence may have generated now: max_tokens, the context, and its credit.
int Scheduler::IdLimit(const Sequence& sequence) const {
  const int context = options_.max_context - sequence.prompt_size();
  const int longest = std::min(sequence.request.max_tokens, context);
  return sequence.request.until_index == 0 ? longest : std::min(longest, sequence.request.until_index);
}

void Scheduler::Finish(Sequence* sequence, absl::Time now) {
  const auto span_ms = [](absl::Time from, absl::Time to) {
    return from == absl::InfiniteFuture() || to < from ? 0.0 : absl::ToDoubleMilliseconds(to - from);
  };
  const bool ran = sequence->started != absl::InfiniteFuture();
  const bool spoke = sequence->first_token != absl::InfiniteFuture();
  const absl::Time end = now == absl::InfiniteFuture() ? (spoke ? sequence->first_token : sequence->submitted) : now;
  FinishEvent event;
  event.id = sequence->id;
  event.reason = sequence->reason;
  event.status = sequence->status;
  event.stop_id = sequence->stop_id;
  event.counts = sequence->counts;
  event.queue_ms = span_ms(sequence->submitted, ran ? sequence->started : end);
  event.prefill_ms = ran ? span_ms(sequence->started, spoke ? sequence->first_token : end) : 0;
  event.decode_ms = spoke ? span_ms(sequence->first_token, end) : 0;
  event.device_ms = sequence->device_ms;
  Leave(sequence, /*wipe=*/sequence->reason == FinishReason::kError);
  ++totals_.finished[static_cast<int>(sequence->reason)];
  sequence->finished = true;
  sequence->sink->OnFinish(event);
}

// False while the sink is full.
bool Scheduler::Deliver(Sequence* sequence, absl::Time now) {
  if (sequence->pending_ids.empty()) return true;
  TokenEvent event;
  event.id = sequence->id;
  event.first_index = static_cast<int>(sequence->counts.generated - static_cast<int64_t>(sequence->pending_ids.size()));
  event.ids = sequence->pending_ids;
  event.logprobs = sequence->pending_logprobs;
  event.prompt_logprobs = sequence->pending_prompt_logprobs;
  event.counts = sequence->counts;
  if (!sequence->sink->OnTokens(event)) {
    sequence->sink_full_since = std::min(sequence->sink_full_since, now);
    return false;
  }
  sequence->pending_ids.clear();
  sequence->pending_logprobs.clear();
  sequence->pending_prompt_logprobs.clear();
  sequence->sink_full_since = absl::InfiniteFuture();
  return true;
}

void Scheduler::DropEnded(absl::Time now) {
  const auto drop = [&](auto& sequences) {
    for (SequencePtr& sequence : sequences) {
      if (!sequence->ending && now >= sequence->request.deadline) {
        sequence->End(FinishReason::kDeadline, absl::DeadlineExceededError("the request's deadline has passed"));
      }
      if (!Deliver(sequence.get(), now) && now - sequence->sink_full_since > options_.sink_patience) {
        sequence->pending_ids.clear();
        sequence->ending = false;
        sequence->End(FinishReason::kCancelled, absl::ResourceExhaustedError("the reader did not take tokens in time"));
      }
      if (!sequence->ending && sequence->decoding && sequence->pending_ids.empty() &&
          sequence->counts.generated >= IdLimit(*sequence)) {
        // max_tokens and the context end it; a lack of credit only after a wait.
        if (sequence->request.until_index == 0 || sequence->counts.generated < sequence->request.until_index ||
            sequence->counts.generated >=
                std::min(sequence->request.max_tokens, options_.max_context - sequence->prompt_size())) {
          sequence->End(FinishReason::kLength);
        } else {
          sequence->credit_wait_since = std::min(sequence->credit_wait_since, now);
          if (now - sequence->credit_wait_since >= sequence->request.credit_wait) sequence->End(FinishReason::kCredit);
        }
      }
      if (sequence->ending && sequence->pending_ids.empty()) Finish(sequence.get(), now);
    }
    const auto ended =
        std::remove_if(sequences.begin(), sequences.end(), [](const SequencePtr& s) { return s->finished; });
    sequences.erase(ended, sequences.end());
  };
  drop(running_);
  drop(waiting_);
}

// ---- admission ----

void Scheduler::AdmitWaiting(absl::Time now) {
  for (auto next = waiting_.begin(); next != waiting_.end() && !free_slots_.empty();) {
    Sequence& sequence = **next;
    if (PrefixIsBeingComputed(sequence)) {
      ++next;
      continue;
    }
    // Strictly in order: a small request does not overtake a large one, so none starves.
    if (!Start(&sequence)) return;
    sequence.started = std::min(sequence.started, now);
    running_.push_back(std::move(*next));
    next = waiting_.erase(next);
  }
}

// Whether a running prompt will soon have put more of this one's prefix into the cache than is there now.
bool Scheduler::PrefixIsBeingComputed(const Sequence& sequence) const {
  if (!options_.cache.prefix_cache || sequence.request.prompt_logprobs) return false;
  const auto shared_with = [&](const Sequence& other) {
    const int most = std::min(sequence.size() - 1, other.size() - 1);
    const auto end = std::mismatch(sequence.ids.begin(), sequence.ids.begin() + most, other.ids.begin()).first;
    return static_cast<int>(end - sequence.ids.begin()) / kKvPageTokens * kKvPageTokens;
  };
  int cached = -1;
  for (const SequencePtr& other : running_) {
    if (other->decoding || other->ending || other->kv.salt != sequence.kv.salt || other->snapshot_points.empty()) {
      continue;
    }
    // Of a longer prompt only what it leaves a snapshot of can be used.
    const int shared = shared_with(*other);
    int usable = 0;
    for (const int point : other->snapshot_points) usable = point <= shared ? point : usable;
    if (usable == 0) continue;
    if (cached < 0) cached = cache_.Peek(sequence.kv.salt, sequence.ids).tokens;
    if (usable > cached) return true;
  }
  return false;
}

// False when there are not enough pages now.
bool Scheduler::Start(Sequence* sequence) {
  PrefixTree::Hit hit;
  if (!sequence->request.prompt_logprobs) hit = cache_.Begin(sequence->ids, &sequence->kv);
  // A page for every sequence that decodes and may still grow stays free, so that starting one does not preempt
  // another.
  const int growing =
      static_cast<int>(std::count_if(running_.begin(), running_.end(), [this](const SequencePtr& other) {
        return other->decoding && other->kv.positions() < PositionsMax(other->request);
      }));
  const int positions = sequence->size() + 1;
  const int missing = (positions + kKvPageTokens - 1) / kKvPageTokens - static_cast<int>(sequence->kv.pages.size());
  if (missing + growing > cache_.attainable() && !(running_.empty() && missing <= cache_.attainable())) {
    cache_.Release(&sequence->kv);
    return false;
  }
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  const SequenceStart start{.sampling = sequence->request.sampling,
                            .ids = sequence->ids,
                            .generated_from = sequence->prompt_size(),
                            .cached = hit.tokens,
                            .snapshot = hit.snapshot,
                            .cached_mtp = hit.mtp};
  const absl::Status opened = backend_->Open(sequence->slot, start);
  GANTRY_CHECK(opened.ok(), "Check() let the request in");
  GANTRY_CHECK(cache_.Reserve(positions, &sequence->kv), "enough pages were counted");
  sequence->processed = hit.tokens;
  sequence->decoding = false;
  sequence->spec = speculator_->Start(sequence->ids);
  if (sequence->started == absl::InfiniteFuture()) {
    sequence->counts.cached = std::min(hit.tokens, sequence->prompt_size());
    totals_.totals.cached += sequence->counts.cached;
  }
  ChooseSnapshotPoints(sequence);
  return true;
}

// Where later requests may branch off: the caller's cache points, the end of the prompt, and evenly between.
void Scheduler::ChooseSnapshotPoints(Sequence* sequence) const {
  std::vector<int>& points = sequence->snapshot_points;
  points.clear();
  if (!options_.cache.prefix_cache) return;
  const auto add = [&](int position) {
    const int point = std::min(position, sequence->size() - 1) / kKvPageTokens * kKvPageTokens;
    if (point > sequence->processed) points.push_back(point);
  };
  for (const int point : sequence->request.cache_points) add(point);
  add(sequence->size() - 1);
  for (int at = options_.snapshot_interval; at < sequence->size(); at += options_.snapshot_interval) add(at);
  std::sort(points.begin(), points.end());
  points.erase(std::unique(points.begin(), points.end()), points.end());
}

// ---- pages of running sequences ----

// Every decoding sequence gets the pages that its next round may write; where there are none, the lowest-ranking one
// running gives up its own.
void Scheduler::GrowOrPreempt() {
  const int reach = 2 + 2 * speculator_->depth_max();
  for (const SequencePtr& sequence : running_) {
    if (sequence->slot < 0 || !sequence->decoding || sequence->ending) continue;
    while (!cache_.Reserve(sequence->processed + reach, &sequence->kv)) {
      Sequence* lowest = nullptr;
      for (const SequencePtr& other : running_) {
        if (other->slot >= 0 && (lowest == nullptr || lowest->Outranks(*other))) lowest = other.get();
      }
      Preempt(lowest);
      if (lowest == sequence.get()) break;
    }
  }
  for (SequencePtr& sequence : running_) {
    if (sequence->slot < 0) Queue(std::move(sequence));
  }
  running_.erase(std::remove(running_.begin(), running_.end(), nullptr), running_.end());
}

void Scheduler::Preempt(Sequence* sequence) {
  sequence->recompute_from = 0;
  sequence->recompute_to = std::max(sequence->recompute_to, sequence->processed);
  sequence->processed = 0;
  sequence->decoding = false;
  ++totals_.preempted;
  Leave(sequence, /*wipe=*/false);
}

// Gives back what a running sequence holds.
void Scheduler::Leave(Sequence* sequence, bool wipe) {
  if (sequence->slot < 0) return;
  backend_->Close(sequence->slot);
  free_slots_.push_back(sequence->slot);
  sequence->slot = -1;
  if (wipe) {
    for (const KvPage page : cache_.Own(sequence->kv)) backend_->ZeroPage(page);
  }
  cache_.Release(&sequence->kv);
  if (sequence->spare_snapshot != kNoSnapshot) cache_.tree().ReleaseSnapshot(sequence->spare_snapshot);
  sequence->spare_snapshot = sequence->rolling_snapshot = kNoSnapshot;
}

// ---- the round ----

bool Scheduler::Plan(StepRecord* record) {
  plan_.sequences.clear();
  planned_.clear();
  tracks_.clear();
  const auto decodes = [this](const Sequence& sequence) {
    return sequence.decoding && !sequence.ending && sequence.pending_ids.empty() &&
           IdLimit(sequence) > static_cast<int>(sequence.counts.generated);
  };
  for (const SequencePtr& sequence : running_) {
    if (decodes(*sequence)) tracks_.push_back(&sequence->spec);
  }
  speculator_->BeginRound(tracks_);
  for (const SequencePtr& sequence : running_) {
    if (decodes(*sequence)) PlanDecode(sequence.get(), record);
  }
  int rows_left = options_.prefill_chunk_rows;
  if (prefill_row_ms_ > 0) {
    const double affordable = absl::ToDoubleMilliseconds(options_.chunk_time) / prefill_row_ms_;
    rows_left = std::clamp(static_cast<int>(affordable), std::min(kChunkRowsMin, rows_left), rows_left);
  }
  for (const SequencePtr& sequence : running_) {
    if (rows_left <= 0) break;
    if (!sequence->decoding && !sequence->ending) rows_left -= PlanPrefill(sequence.get(), rows_left, record);
  }
  return !plan_.sequences.empty();
}

void Scheduler::PlanDecode(Sequence* sequence, StepRecord* record) {
  const int room = IdLimit(*sequence) - static_cast<int>(sequence->counts.generated);
  SequencePlan plan{.slot = sequence->slot,
                    .pages = sequence->kv.pages,
                    .ids = sequence->ids,
                    .position = sequence->processed,
                    .max_new_ids = room};
  speculator_->PlanDecode(sequence->ids, room, &sequence->spec, &plan);
  // The next page boundary, if this round may reach it: what the reply leaves to a next turn.
  const int boundary = (sequence->processed / kKvPageTokens + 1) * kKvPageTokens;
  const int drafts = std::max<int>(static_cast<int>(plan.drafts.size()), sequence->spec.held);
  if (options_.cache.snapshots > 0 && sequence->processed + 1 + drafts >= boundary) {
    if (sequence->spare_snapshot == kNoSnapshot) {
      const bool detached = sequence->rolling_snapshot != kNoSnapshot &&
                            cache_.tree().DetachSnapshot(sequence->rolling_node, sequence->rolling_snapshot);
      sequence->spare_snapshot = detached ? sequence->rolling_snapshot : cache_.tree().ReserveSnapshot();
      sequence->rolling_snapshot = kNoSnapshot;
    }
    plan.snapshot = sequence->spare_snapshot;
    plan.snapshot_at = boundary;
  }
  plan_.sequences.push_back(plan);
  planned_.push_back(sequence);
  record->rows_decode += 1;
  record->context_tokens += sequence->processed;
}

// A chunk, cut where a snapshot is wanted; its rows.
int Scheduler::PlanPrefill(Sequence* sequence, int rows_max, StepRecord* record) {
  int rows = std::min(rows_max, sequence->size() - sequence->processed);
  SequencePlan plan{
      .slot = sequence->slot,
      .pages = sequence->kv.pages,
      .ids = sequence->ids,
      .position = sequence->processed,
      .want_prompt_logprobs = sequence->request.prompt_logprobs && sequence->first_token == absl::InfiniteFuture()};
  speculator_->PlanPrefill(&plan);
  std::vector<int>& points = sequence->snapshot_points;
  if (!points.empty() && points.front() - sequence->processed <= rows) {
    rows = points.front() - sequence->processed;
    plan.snapshot_at = points.front();
    if (options_.cache.snapshots > 0) plan.snapshot = cache_.tree().ReserveSnapshot();
    sequence->spare_snapshot = plan.snapshot;
    points.erase(points.begin());
  }
  plan.prefill_rows = rows;
  plan_.sequences.push_back(plan);
  planned_.push_back(sequence);
  record->rows_prefill += rows;
  record->context_tokens += sequence->processed;
  return rows;
}

void Scheduler::Take(const SequenceResult& result, const SequencePlan& plan, Sequence* sequence, absl::Time now) {
  if (!result.status.ok()) {
    sequence->End(FinishReason::kError, result.status);
    return;
  }
  const int before = sequence->processed;
  if (plan.prefill_rows > 0) {
    sequence->processed += plan.prefill_rows;
    sequence->decoding = sequence->processed == sequence->size();
    const int again =
        std::min(sequence->processed, sequence->recompute_to) - std::max(before, sequence->recompute_from);
    sequence->counts.recomputed += std::max(again, 0);
    totals_.totals.recomputed += std::max(again, 0);
    totals_.totals.prompt += plan.prefill_rows;
  } else {
    // Every committed id but the last has been an input of this round, and so was the last id before.
    sequence->processed += static_cast<int>(result.ids.size());
  }
  sequence->ids.insert(sequence->ids.end(), result.ids.begin(), result.ids.end());
  speculator_->Take(plan, result, sequence->processed, &sequence->spec);
  cache_.Accept(sequence->ids, sequence->processed, result.mtp_position, &sequence->kv);
  if (plan.snapshot != kNoSnapshot) TakeSnapshot(plan, result.snapshot_taken, sequence);
  std::copy(result.prompt_logprobs.begin(), result.prompt_logprobs.end(),
            std::back_inserter(sequence->pending_prompt_logprobs));
  if (result.ids.empty()) return;
  if (sequence->first_token == absl::InfiniteFuture()) sequence->first_token = now;
  sequence->pending_ids.insert(sequence->pending_ids.end(), result.ids.begin(), result.ids.end());
  std::copy(result.logprobs.begin(), result.logprobs.end(), std::back_inserter(sequence->pending_logprobs));
  for (Counts* counts : {&sequence->counts, &totals_.totals}) {
    counts->generated += static_cast<int64_t>(result.ids.size());
    counts->drafted += result.drafted;
    counts->accepted += result.accepted;
  }
  for (int depth = 0; depth < result.drafted; ++depth) {
    ++totals_.drafted_at[depth];
    totals_.accepted_at[depth] += depth < result.accepted;
  }
  const std::vector<TokenId>& stops = sequence->request.sampling.stop_ids;
  if (std::find(stops.begin(), stops.end(), result.ids.back()) != stops.end()) {
    sequence->stop_id = result.ids.back();
    sequence->End(FinishReason::kStop);
  }
}

// A snapshot that was planned for this round and is of an accepted prefix goes to its node.
void Scheduler::TakeSnapshot(const SequencePlan& plan, bool taken, Sequence* sequence) {
  const bool prefill = plan.prefill_rows > 0;
  if (taken) {
    const TreeNode node = sequence->kv.path[plan.snapshot_at / kKvPageTokens - 1];
    cache_.tree().AttachSnapshot(node, plan.snapshot);
    if (!prefill) {
      sequence->rolling_node = node;
      sequence->rolling_snapshot = plan.snapshot;
    }
  } else if (prefill) {
    cache_.tree().ReleaseSnapshot(plan.snapshot);
  }
  if (taken || prefill) sequence->spare_snapshot = kNoSnapshot;
}

// What a prefill row costs, from rounds with and without.
void Scheduler::LearnCost(const RoundResult& result, const StepRecord& record) {
  const auto learn = [](double sample, double* mean) { *mean += (*mean == 0 ? 1.0 : 0.2) * (sample - *mean); };
  if (record.rows_prefill == 0) {
    learn(result.device_ms, &decode_ms_);
  } else if (record.rows_prefill >= kChunkRowsMin) {
    const double decode = record.rows_decode > 0 ? decode_ms_ : 0;
    learn(std::max(result.device_ms - decode, 0.1 * result.device_ms) / record.rows_prefill, &prefill_row_ms_);
  }
}

// Shares the round's time out. The weights are read once for all rows, so a row is charged alike whoever it belongs to.
void Scheduler::ShareTime(const RoundResult& result) {
  const auto rows = [&](size_t i) {
    const int prefill = plan_.sequences[i].prefill_rows;
    return prefill > 0 ? prefill : 1 + result.sequences[i].drafted;
  };
  int all = 0;
  for (size_t i = 0; i < planned_.size(); ++i) all += rows(i);
  for (size_t i = 0; i < planned_.size(); ++i) planned_[i]->device_ms += result.device_ms * rows(i) / all;
}

void Scheduler::Count(const RoundResult& result) {
  totals_.device_ms += result.device_ms;
  totals_.draft_passes += result.draft_steps;
  totals_.draft_steps += std::max(result.draft_steps - 1, 0);
  totals_.draft_steps_ms += result.steps_ms;
  for (size_t layer = 0; layer < result.experts_read.size(); ++layer) {
    totals_.experts_read[layer] += result.experts_read[layer];
  }
}

Scheduler::Outcome Scheduler::Step(absl::Time now) {
  Outcome outcome;
  DropEnded(now);
  AdmitWaiting(now);
  GrowOrPreempt();
  if (Plan(&outcome.record)) {
    absl::Status failed;
    const RoundResult* result = nullptr;
    absl::StatusOr<Ticket> ticket = backend_->Enqueue(plan_);
    if (ticket.ok()) {
      absl::StatusOr<const RoundResult*> waited = backend_->Wait(*ticket);
      if (waited.ok()) result = *waited;
      failed = waited.status();
    } else {
      failed = ticket.status();
    }
    const absl::Time after = absl::Now();
    if (result != nullptr) ShareTime(*result);
    for (size_t i = 0; i < planned_.size(); ++i) {
      if (result == nullptr) {
        planned_[i]->End(FinishReason::kError, failed);
      } else {
        Take(result->sequences[i], plan_.sequences[i], planned_[i], after);
      }
    }
    if (result != nullptr) {
      speculator_->EndRound(*result, outcome.record.rows_prefill > 0);
      LearnCost(*result, outcome.record);
      Count(*result);
    }
    outcome.progressed = true;
    outcome.record.round = ++totals_.rounds;
    outcome.record.milliseconds = totals_.last_round_ms = result == nullptr ? 0 : result->device_ms;
    DropEnded(after);
    return outcome;
  }
  for (const SequencePtr& sequence : running_) {
    // A full sink has no way to call back: look again soon.
    if (!sequence->pending_ids.empty()) outcome.wake_at = std::min(outcome.wake_at, now + absl::Milliseconds(2));
    outcome.wake_at = std::min(outcome.wake_at, sequence->credit_wait_since + sequence->request.credit_wait);
    outcome.wake_at = std::min(outcome.wake_at, sequence->request.deadline);
  }
  for (const SequencePtr& sequence : waiting_) {
    outcome.wake_at = std::min(outcome.wake_at, sequence->request.deadline);
    // Who had to give way in this very step may find room in the next one.
    if (sequence->recompute_to > 0) outcome.wake_at = std::min(outcome.wake_at, now + absl::Milliseconds(2));
  }
  return outcome;
}

void Scheduler::FillStats(EngineStats* stats) const {
  *stats = totals_;
  stats->running = static_cast<int>(running_.size());
  stats->queued = static_cast<int>(waiting_.size());
  for (const SequencePtr& sequence : waiting_) stats->queued_prompt_tokens += sequence->size();
  for (const SequencePtr& sequence : running_)
    stats->queued_prompt_tokens += sequence->decoding ? 0 : sequence->size() - sequence->processed;
  // What the tree keeps for nobody in particular is free to whoever needs it.
  stats->kv_pages_free = cache_.attainable();
  stats->kv_pages_used = cache_.pages() - cache_.attainable();
  stats->kv_pages_cached = cache_.tree().evictable();
  stats->snapshots_used = cache_.tree().snapshots_used();
}

}  // namespace gantry::engine
