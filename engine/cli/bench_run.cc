#include "engine/cli/bench_run.h"

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

struct Sequence {
  RequestId id = 0;
  std::vector<TokenId> prompt;
  std::shared_ptr<BenchSink> sink;
};

// All prompts at once; returns when every sequence has its first token. They wait there for RaiseLimit, so that none
// decodes while another one's prompt is still read.
absl::StatusOr<std::vector<Sequence>> Begin(Engine& engine, const BenchText& text, const BenchPoint& point,
                                            int decode_tokens, bool logprobs) {
  static std::atomic<int64_t> salt = 0;  // a prompt seen before is not to be found
  std::vector<Sequence> sequences;
  for (int i = 0; i < point.batch; ++i) {
    Sequence sequence;
    sequence.prompt = text.Prompt(i, point.context);
    sequence.sink = std::make_shared<BenchSink>();
    Request request;
    request.ids = sequence.prompt;
    request.generated_from = point.context;
    request.max_tokens = decode_tokens;
    request.until_index = 1;
    request.credit_wait = absl::Hours(1);
    request.sampling.temperature = 0;
    request.sampling.logprobs = logprobs;
    request.cache_salt = absl::StrCat("bench ", ++salt);
    GANTRY_ASSIGN_OR_RETURN(sequence.id, engine.Submit(std::move(request), sequence.sink));
    sequences.push_back(std::move(sequence));
  }
  for (const Sequence& sequence : sequences) GANTRY_RETURN_IF_ERROR(sequence.sink->WaitForFirst());
  return sequences;
}

absl::Status Finish(Engine& engine, const std::vector<Sequence>& sequences, int decode_tokens) {
  for (const Sequence& sequence : sequences) engine.RaiseLimit(sequence.id, decode_tokens);
  for (const Sequence& sequence : sequences) GANTRY_RETURN_IF_ERROR(sequence.sink->WaitForFinish());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Measurement> Measure(Engine& engine, const BenchText& text, const BenchPoint& point, int decode_tokens) {
  const absl::Time begin = absl::Now();
  GANTRY_ASSIGN_OR_RETURN(const std::vector<Sequence> sequences, Begin(engine, text, point, decode_tokens, false));
  const absl::Time middle = absl::Now();
  const EngineStats before = engine.Stats();
  GANTRY_RETURN_IF_ERROR(Finish(engine, sequences, decode_tokens));
  const double decode_s = absl::ToDoubleSeconds(absl::Now() - middle);
  const EngineStats after = engine.Stats();

  Measurement m;
  m.prompt_tokens_per_s = point.batch * point.context / absl::ToDoubleSeconds(middle - begin);
  m.decode_tokens_per_s = point.batch * (decode_tokens - 1) / decode_s;
  const auto rounds = static_cast<double>(std::max<int64_t>(1, after.rounds - before.rounds));
  m.rounds_per_s = rounds / decode_s;
  m.tokens_per_round = (decode_tokens - 1) / rounds;
  for (int i = 0; i < kDraftDepthMax; ++i) {
    m.drafted_at[i] = after.drafted_at[i] - before.drafted_at[i];
    m.accepted_at[i] = after.accepted_at[i] - before.accepted_at[i];
  }
  return m;
}

absl::StatusOr<Outputs> Record(Engine& engine, const BenchText& text, const BenchPoint& point, int decode_tokens) {
  GANTRY_ASSIGN_OR_RETURN(std::vector<Sequence> sequences, Begin(engine, text, point, decode_tokens, true));
  GANTRY_RETURN_IF_ERROR(Finish(engine, sequences, decode_tokens));
  Outputs out;
  out.hash = 1469598103934665603ull;
  const auto mix = [&](uint32_t word) { out.hash = (out.hash ^ word) * 1099511628211ull; };
  for (Sequence& sequence : sequences) {
    for (const TokenId id : sequence.sink->ids()) mix(static_cast<uint32_t>(id));
    for (const float logprob : sequence.sink->logprobs()) mix(std::bit_cast<uint32_t>(logprob));
    out.runs.push_back({std::move(sequence.prompt), sequence.sink->ids()});
  }
  return out;
}

}  // namespace gantry::engine::cli
