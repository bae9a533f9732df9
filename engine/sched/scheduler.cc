#include "engine/sched/scheduler.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/check.h"

namespace gantry::engine {

struct Scheduler::Sequence {
  RequestId id = 0;
  Request request;
  std::shared_ptr<Sink> sink;
  absl::Time submitted, started, first_token;
  SequenceSlot slot = -1;  // -1: waiting
  std::vector<KvPage> pages;
  int processed = 0;  // positions whose KV and state exist
  bool decoding = false;
  Counts counts;

  // Generated, not yet taken by the sink.
  std::vector<TokenId> pending_ids;
  std::vector<TokenLogprobs> pending_logprobs, pending_prompt_logprobs;
  absl::Time sink_full_since = absl::InfiniteFuture();
  absl::Time credit_wait_since = absl::InfiniteFuture();

  bool ending = false;  // no more rounds; ends when the sink has taken what is pending
  FinishReason reason = FinishReason::kStop;
  absl::Status status;
  TokenId stop_id = -1;
  bool finished = false;

  int prompt_size() const { return static_cast<int>(request.ids.size()); }
  int64_t earlier_output() const { return prompt_size() - request.generated_from; }
  void End(FinishReason why, absl::Status what = absl::OkStatus()) {
    if (ending) return;
    ending = true;
    reason = why;
    status = std::move(what);
  }
};

Scheduler::Scheduler(Backend* backend, int kv_pages, const SchedulerOptions& options)
    : backend_(backend), options_(options), pages_(kv_pages), kv_pages_(kv_pages) {
  free_slots_.resize(backend->max_sequences());
  std::iota(free_slots_.rbegin(), free_slots_.rend(), 0);
  plan_.sequences.reserve(backend->max_sequences());
  planned_.reserve(backend->max_sequences());
}

Scheduler::~Scheduler() {
  CancelAll();
  DropEnded(absl::InfiniteFuture());
}

int Scheduler::PagesFor(const Request& request) const {
  const int64_t longest = static_cast<int64_t>(request.generated_from) + request.max_tokens + options_.draft_depth;
  const int64_t positions = std::min<int64_t>(longest, int64_t{options_.max_context} + options_.draft_depth);
  return static_cast<int>((positions + kKvPageTokens - 1) / kKvPageTokens);
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
  if (PagesFor(request) > kv_pages_) {
    return absl::InvalidArgumentError(absl::StrCat("the request needs ", PagesFor(request), " cache pages of ",
                                                   kKvPageTokens, " tokens, the engine has ", kv_pages_,
                                                   "; lower max_tokens"));
  }
  return absl::OkStatus();
}

void Scheduler::Add(RequestId id, Request request, std::shared_ptr<Sink> sink, absl::Time now) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->request = std::move(request);
  sequence->sink = std::move(sink);
  sequence->submitted = now;
  sequence->started = sequence->first_token = absl::InfiniteFuture();
  sequence->counts.prompt = sequence->request.generated_from;
  sequence->counts.recomputed = sequence->earlier_output();
  sequence->counts.generated = sequence->earlier_output();
  const auto place = std::find_if(waiting_.begin(), waiting_.end(), [&](const SequencePtr& other) {
    return other->request.priority < sequence->request.priority;
  });
  waiting_.insert(place, std::move(sequence));
}

Scheduler::Sequence* Scheduler::Find(RequestId id) {
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
  const int context = options_.max_context - sequence.request.generated_from;
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
  if (sequence->slot >= 0) {
    backend_->Close(sequence->slot);
    free_slots_.push_back(sequence->slot);
    pages_.Release(&sequence->pages);
  }
  ++finished_[static_cast<int>(sequence->reason)];
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
                std::min(sequence->request.max_tokens, options_.max_context - sequence->request.generated_from)) {
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

void Scheduler::AdmitWaiting(absl::Time now) {
  while (!waiting_.empty() && !free_slots_.empty()) {
    Sequence& next = *waiting_.front();
    // Strictly in order: a small request does not overtake a large one, so none starves.
    if (!pages_.Allocate(PagesFor(next.request), &next.pages)) return;
    next.slot = free_slots_.back();
    free_slots_.pop_back();
    next.started = now;
    const SequenceStart start{
        .sampling = next.request.sampling, .ids = next.request.ids, .generated_from = next.request.generated_from};
    const absl::Status opened = backend_->Open(next.slot, start);
    GANTRY_CHECK(opened.ok(), "Check() let the request in");
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

bool Scheduler::Plan(absl::Time now, StepRecord* record) {
  plan_.sequences.clear();
  planned_.clear();
  int rows_left = backend_->max_rows();
  for (const SequencePtr& sequence : running_) {
    if (!sequence->decoding || sequence->ending || !sequence->pending_ids.empty()) continue;
    const int room = IdLimit(*sequence) - static_cast<int>(sequence->counts.generated);
    if (room <= 0) continue;
    plan_.sequences.push_back(SequencePlan{.slot = sequence->slot,
                                           .pages = sequence->pages,
                                           .position = sequence->processed,
                                           .draft_depth = room > 1 ? options_.draft_depth : 0,
                                           .max_new_ids = room});
    planned_.push_back(sequence.get());
    rows_left -= 1 + options_.draft_depth;
    record->rows_decode += 1;
    record->context_tokens += sequence->processed;
  }
  int budget = std::min(rows_left, options_.prefill_chunk_rows);
  for (const SequencePtr& sequence : running_) {
    if (sequence->decoding || sequence->ending || budget <= 0) continue;
    const int rows = std::min(budget, sequence->prompt_size() - sequence->processed);
    const bool last = sequence->processed + rows == sequence->prompt_size();
    const int room = IdLimit(*sequence) - static_cast<int>(sequence->counts.generated);
    plan_.sequences.push_back(
        SequencePlan{.slot = sequence->slot,
                     .pages = sequence->pages,
                     .prefill = absl::MakeConstSpan(sequence->request.ids).subspan(sequence->processed, rows),
                     .position = sequence->processed,
                     .prefill_ends_prompt = last,
                     .next_prompt_id = last ? -1 : sequence->request.ids[sequence->processed + rows],
                     .draft_depth = last && room > 1 ? options_.draft_depth : 0,
                     .max_new_ids = 1,
                     .want_prompt_logprobs = sequence->request.prompt_logprobs});
    planned_.push_back(sequence.get());
    budget -= rows;
    record->rows_prefill += rows;
    record->context_tokens += sequence->processed;
  }
  (void)now;
  return !plan_.sequences.empty();
}

void Scheduler::Take(const SequenceResult& result, const SequencePlan& plan, Sequence* sequence, absl::Time now) {
  if (!result.status.ok()) {
    sequence->End(FinishReason::kError, result.status);
    return;
  }
  std::copy(result.prompt_logprobs.begin(), result.prompt_logprobs.end(),
            std::back_inserter(sequence->pending_prompt_logprobs));
  if (!plan.prefill.empty()) {
    sequence->processed += static_cast<int>(plan.prefill.size());
    sequence->decoding = plan.prefill_ends_prompt;
  } else {
    // Every committed id but the last has been an input of this round, and so was the old anchor.
    sequence->processed += static_cast<int>(result.ids.size());
  }
  if (result.ids.empty()) return;
  if (sequence->first_token == absl::InfiniteFuture()) sequence->first_token = now;
  sequence->pending_ids.insert(sequence->pending_ids.end(), result.ids.begin(), result.ids.end());
  std::copy(result.logprobs.begin(), result.logprobs.end(), std::back_inserter(sequence->pending_logprobs));
  sequence->counts.generated += static_cast<int64_t>(result.ids.size());
  sequence->counts.drafted += result.drafted;
  sequence->counts.accepted += result.accepted;
  totals_.generated += static_cast<int64_t>(result.ids.size());
  totals_.drafted += result.drafted;
  totals_.accepted += result.accepted;
  const std::vector<TokenId>& stops = sequence->request.sampling.stop_ids;
  if (std::find(stops.begin(), stops.end(), result.ids.back()) != stops.end()) {
    sequence->stop_id = result.ids.back();
    sequence->End(FinishReason::kStop);
  }
}

Scheduler::Outcome Scheduler::Step(absl::Time now) {
  Outcome outcome;
  DropEnded(now);
  AdmitWaiting(now);
  if (Plan(now, &outcome.record)) {
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
    for (size_t i = 0; i < planned_.size(); ++i) {
      if (result == nullptr) {
        planned_[i]->End(FinishReason::kError, failed);
      } else {
        totals_.prompt += static_cast<int64_t>(plan_.sequences[i].prefill.size());
        Take(result->sequences[i], plan_.sequences[i], planned_[i], after);
      }
    }
    outcome.progressed = true;
    outcome.record.round = ++rounds_;
    outcome.record.milliseconds = last_round_ms_ = result == nullptr ? 0 : result->device_ms;
    DropEnded(after);
    return outcome;
  }
  for (const auto* sequences : {&running_}) {
    for (const SequencePtr& sequence : *sequences) {
      // A full sink has no way to call back: look again soon.
      if (!sequence->pending_ids.empty()) outcome.wake_at = std::min(outcome.wake_at, now + absl::Milliseconds(2));
      outcome.wake_at = std::min(outcome.wake_at, sequence->credit_wait_since + sequence->request.credit_wait);
      outcome.wake_at = std::min(outcome.wake_at, sequence->request.deadline);
    }
  }
  for (const SequencePtr& sequence : waiting_) outcome.wake_at = std::min(outcome.wake_at, sequence->request.deadline);
  return outcome;
}

void Scheduler::FillStats(EngineStats* stats) const {
  stats->running = static_cast<int>(running_.size());
  stats->queued = static_cast<int>(waiting_.size());
  stats->queued_prompt_tokens = 0;
  for (const SequencePtr& sequence : waiting_) stats->queued_prompt_tokens += sequence->prompt_size();
  for (const SequencePtr& sequence : running_)
    stats->queued_prompt_tokens += sequence->prompt_size() - std::min(sequence->processed, sequence->prompt_size());
  stats->kv_pages_free = pages_.free();
  stats->kv_pages_used = pages_.used();
  stats->rounds = rounds_;
  stats->last_round_ms = last_round_ms_;
  stats->totals = totals_;
  std::copy(std::begin(finished_), std::end(finished_), std::begin(stats->finished));
}

}  // namespace gantry::engine
