#include "engine/cli/bench_run.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"

namespace gantry::engine::cli {
namespace {

class BenchSink final : public Sink {
 public:
  bool OnTokens(const TokenEvent& event) override {
    std::lock_guard lock(mutex_);
    const bool first = ids_.empty();
    ids_.insert(ids_.end(), event.ids.begin(), event.ids.end());
    for (const TokenLogprobs& logprobs : event.logprobs) logprobs_.push_back(logprobs.logprob);
    if (first) changed_.notify_all();
    return true;
  }
  void OnFinish(const FinishEvent& event) override {
    std::lock_guard lock(mutex_);
    status_ = event.status;
    finished_ = true;
    changed_.notify_all();
  }

  absl::Status WaitForFirst() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return finished_ || !ids_.empty(); });
    return status_;
  }
  absl::Status WaitForFinish() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return finished_; });
    return status_;
  }
  // REQUIRES: WaitForFinish has returned.
  const std::vector<TokenId>& ids() const { return ids_; }
  const std::vector<float>& logprobs() const { return logprobs_; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<TokenId> ids_;
  std::vector<float> logprobs_;
  absl::Status status_;
  bool finished_ = false;
};

struct Running {
  RequestId id = 0;
  std::shared_ptr<BenchSink> sink;
};

// All prompts at once; returns when every sequence has its first token. They wait there for RaiseLimit, so that none
// decodes while another one's prompt is still read.
absl::StatusOr<std::vector<Running>> Begin(Engine& engine, const std::vector<ReplayRun>& sequences, int decode_tokens,
                                           bool logprobs) {
  static std::atomic<int64_t> salt = 0;  // a prompt seen before is not to be found
  std::vector<Running> running;
  for (const ReplayRun& sequence : sequences) {
    Request request;
    request.ids = sequence.prompt;
    request.generated_from = static_cast<int>(sequence.prompt.size());
    request.max_tokens = decode_tokens;
    request.until_index = 1;
    request.credit_wait = absl::Hours(1);
    request.sampling.temperature = 0;
    request.sampling.logprobs = logprobs;
    request.sampling.forced = sequence.output;
    request.cache_salt = absl::StrCat("bench ", ++salt);
    auto sink = std::make_shared<BenchSink>();
    GANTRY_ASSIGN_OR_RETURN(const RequestId id, engine.Submit(std::move(request), sink));
    running.push_back({id, std::move(sink)});
  }
  for (const Running& sequence : running) GANTRY_RETURN_IF_ERROR(sequence.sink->WaitForFirst());
  return running;
}

absl::Status Finish(Engine& engine, const std::vector<Running>& running, int decode_tokens) {
  for (const Running& sequence : running) engine.RaiseLimit(sequence.id, decode_tokens);
  for (const Running& sequence : running) GANTRY_RETURN_IF_ERROR(sequence.sink->WaitForFinish());
  return absl::OkStatus();
}

// The engine's counters when it has counted so many generated ids: sinks hear of a round a little earlier.
EngineStats StatsAt(const Engine& engine, int64_t generated) {
  while (true) {
    EngineStats stats = engine.Stats();
    if (stats.totals.generated >= generated) return stats;
    absl::SleepFor(absl::Microseconds(50));
  }
}

struct Work {
  std::vector<Running> running;  // finished
  Measurement measured;
};
absl::StatusOr<Work> Run(Engine& engine, const std::vector<ReplayRun>& sequences, int decode_tokens, bool logprobs) {
  const auto batch = static_cast<int64_t>(sequences.size());
  const int64_t generated = engine.Stats().totals.generated;
  const absl::Time begin = absl::Now();
  GANTRY_ASSIGN_OR_RETURN(const std::vector<Running> running, Begin(engine, sequences, decode_tokens, logprobs));
  const double prompt_s = absl::ToDoubleSeconds(absl::Now() - begin);
  const EngineStats before = StatsAt(engine, generated + batch);
  const absl::Time middle = absl::Now();
  GANTRY_RETURN_IF_ERROR(Finish(engine, running, decode_tokens));
  const double decode_s = absl::ToDoubleSeconds(absl::Now() - middle);
  const EngineStats after = StatsAt(engine, generated + batch * decode_tokens);

  Work work{running, {}};
  Measurement& m = work.measured;
  m.prompt_tokens_per_s = static_cast<double>(batch) * static_cast<double>(sequences[0].prompt.size()) / prompt_s;
  m.decode_tokens_per_s = static_cast<double>(batch) * (decode_tokens - 1) / decode_s;
  m.rounds = after.rounds - before.rounds;
  const auto rounds = static_cast<double>(m.rounds);
  m.round_ms = decode_s * 1e3 / rounds;
  m.tokens_per_round = (decode_tokens - 1) / rounds;
  m.sequence_rounds = batch * (decode_tokens - 1);
  for (int i = 0; i < kDraftDepthMax; ++i) {
    m.drafted_at[i] = after.drafted_at[i] - before.drafted_at[i];
    m.accepted_at[i] = after.accepted_at[i] - before.accepted_at[i];
    m.sequence_rounds -= m.accepted_at[i];
  }
  m.draft_passes = after.draft_passes - before.draft_passes;
  m.draft_steps = after.draft_steps - before.draft_steps;
  m.draft_steps_ms = after.draft_steps_ms - before.draft_steps_ms;
  for (size_t i = 0; i < after.experts_read.size(); ++i) {
    m.experts_read.push_back(static_cast<double>(after.experts_read[i] - before.experts_read[i]) / rounds);
  }
  return work;
}

}  // namespace

std::vector<ReplayRun> SequencesOf(const BenchText& text, const BenchPoint& point, int decode_tokens, bool free) {
  std::vector<ReplayRun> sequences;
  for (int i = 0; i < point.batch; ++i) {
    sequences.push_back({text.Ids(i, 0, point.context), {}});
    if (!free) sequences.back().output = text.Ids(i, point.context, decode_tokens);
  }
  return sequences;
}

absl::StatusOr<Measurement> Measure(Engine& engine, const std::vector<ReplayRun>& sequences, int decode_tokens) {
  GANTRY_ASSIGN_OR_RETURN(const Work work, Run(engine, sequences, decode_tokens, /*logprobs=*/false));
  return work.measured;
}

absl::StatusOr<Outputs> Record(Engine& engine, const std::vector<ReplayRun>& sequences, int decode_tokens) {
  GANTRY_ASSIGN_OR_RETURN(const Work work, Run(engine, sequences, decode_tokens, /*logprobs=*/true));
  Outputs out;
  out.measured = work.measured;
  out.hash = 1469598103934665603ull;
  const auto mix = [&](uint32_t word) { out.hash = (out.hash ^ word) * 1099511628211ull; };
  for (size_t i = 0; i < sequences.size(); ++i) {
    const BenchSink& sink = *work.running[i].sink;
    for (const TokenId id : sink.ids()) mix(static_cast<uint32_t>(id));
    for (const float logprob : sink.logprobs()) mix(std::bit_cast<uint32_t>(logprob));
    out.runs.push_back({sequences[i].prompt, sink.ids()});
  }
  return out;
}

}  // namespace gantry::engine::cli
