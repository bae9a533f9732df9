#include "engine/sample/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/sample/philox.h"
#include "engine/sample/scan.h"

namespace gantry::engine {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();
// Above every Gumbel variate that 32 random bits can give: -log(-log(1 - 2^-33)) = 22.87.
constexpr float kNoiseMax = 23.0f;

float GumbelOfBits(uint32_t bits) {
  const double u = (static_cast<double>(bits) + 0.5) * 0x1p-32;
  return static_cast<float>(-std::log(-std::log(u)));
}

// One Philox call serves four neighbouring ids.
std::array<uint32_t, 4> NoiseBits(uint64_t seed, uint32_t choice, uint32_t position, TokenId token) {
  return Philox4x32({static_cast<uint32_t>(token) / 4, position, choice, 0},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

}  // namespace

float GumbelNoise(uint64_t seed, uint32_t choice, uint32_t position, TokenId token) {
  return GumbelOfBits(NoiseBits(seed, choice, position, token)[token % 4]);
}

void SequenceSampler::Open(const SamplingParams& params, int vocab_rows, absl::Span<const TokenId> ids,
                           int generated_from) {
  params_ = params;
  generated_ = static_cast<int>(ids.size()) - generated_from;
  generated_counts_.clear();
  seen_.clear();
  if (params.presence_penalty != 0 || params.frequency_penalty != 0 || params.repetition_penalty != 1.0f) {
    generated_counts_.resize(vocab_rows);
    seen_.resize(vocab_rows);
    for (size_t i = 0; i < ids.size(); ++i) {
      ++seen_[ids[i]];
      if (static_cast<int>(i) >= generated_from) ++generated_counts_[ids[i]];
    }
  }
}

bool SequenceSampler::IsStop(TokenId id) const {
  return std::find(params_.stop_ids.begin(), params_.stop_ids.end(), id) != params_.stop_ids.end();
}

TokenId SequenceSampler::Forced() const {
  return generated_ < static_cast<int>(params_.forced.size()) ? params_.forced[generated_] : -1;
}

void SequenceSampler::Commit(TokenId id) {
  ++generated_;
  if (!penalised()) return;
  ++seen_[id];
  ++generated_counts_[id];
}

void SequenceSampler::Undo(TokenId id) {
  --generated_;
  if (!penalised()) return;
  --seen_[id];
  --generated_counts_[id];
}

Sampler::Sampler(int vocab_rows, int vocab_used) : vocab_rows_(vocab_rows), vocab_used_(vocab_used) {
  GANTRY_CHECK(vocab_used > 0 && vocab_used <= vocab_rows, "some rows of the vocabulary are real");
  candidates_.reserve(vocab_rows);
}

void Sampler::Process(const SequenceSampler& sequence, float* logits) const {
  const SamplingParams& params = sequence.params_;
  for (const auto& [id, bias] : params.logit_bias) logits[id] += bias;
  if (sequence.penalised()) {
    for (int id = 0; id < vocab_used_; ++id) {
      if (sequence.seen_[id] == 0) continue;
      float& logit = logits[id];
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      const uint32_t count = sequence.generated_counts_[id];
      if (count > 0) logit -= params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
    }
  }
  if (sequence.generated_ < params.min_tokens) {
    for (const TokenId id : params.stop_ids) logits[id] = kMasked;
  }
}

void Sampler::Truncate(const SamplingParams& params, const float* logits) {
  candidates_.resize(vocab_used_);
  std::iota(candidates_.begin(), candidates_.end(), 0);
  const auto better = [logits](TokenId a, TokenId b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  if (params.top_k > 0 && params.top_k < vocab_used_) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params.top_k - 1, candidates_.end(), better);
    candidates_.resize(params.top_k);
  }
  if (params.top_p >= 1.0f && params.min_p <= 0.0f) return;

  const float max = logits[*std::min_element(candidates_.begin(), candidates_.end(), better)];
  if (params.top_p < 1.0f) {
    double total = 0;
    for (const TokenId id : candidates_) total += std::exp(static_cast<double>(logits[id]) - max);
    // The shortest prefix of the sorted candidates that holds top_p of the mass, sorted in growing portions because it
    // is nearly always short.
    const double wanted = params.top_p * total;
    double mass = 0;
    size_t kept = 0, sorted = 0;
    while (kept < candidates_.size()) {
      if (kept == sorted) {
        const size_t end = std::min(candidates_.size(), std::max<size_t>(64, sorted * 4));
        std::partial_sort(candidates_.begin() + sorted, candidates_.begin() + end, candidates_.end(), better);
        sorted = end;
      }
      mass += std::exp(static_cast<double>(logits[candidates_[kept++]]) - max);
      if (mass >= wanted) break;
    }
    candidates_.resize(kept);
  }
  if (params.min_p > 0.0f) {
    const double floor = max + std::log(static_cast<double>(params.min_p));
    std::erase_if(candidates_, [&](TokenId id) { return logits[id] < floor; });
  }
}

absl::Status Sampler::Choose(const SequenceSampler& sequence, int position, float* logits, TokenId* id) {
  if (const int bad = FirstNotFinite(logits, vocab_used_); bad < vocab_used_) {
    return absl::InternalError(absl::StrCat("the logit of token ", bad, " at position ", position, " is not finite"));
  }
  Process(sequence, logits);
  const SamplingParams& params = sequence.params_;
  if (params.temperature == 0) {
    *id = FirstLargest(logits, vocab_used_);
    return absl::OkStatus();
  }
  const float scale = 1.0f / params.temperature;
  for (int i = 0; i < vocab_used_; ++i) logits[i] *= scale;
  Truncate(params, logits);

  float best = kMasked;
  TokenId chosen = -1;
  for (const TokenId candidate : candidates_) {
    const float logit = logits[candidate];
    // Even the largest noise would not win: most of the vocabulary ends here without a random number.
    if (logit + kNoiseMax < best || logit == kMasked) continue;
    const float value = logit + GumbelNoise(params.seed, params.choice, static_cast<uint32_t>(position), candidate);
    if (chosen < 0 || value > best || (value == best && candidate < chosen)) {
      best = value;
      chosen = candidate;
    }
  }
  if (chosen < 0) return absl::FailedPreconditionError("every token is masked");
  *id = chosen;
  return absl::OkStatus();
}

void Sampler::Logprobs(const float* logits, TokenId id, int top, LogprobRow* out) {
  const float max = LargestOf(logits, vocab_used_);
  double sum = 0;
  for (int i = 0; i < vocab_used_; ++i) sum += std::exp(static_cast<double>(logits[i]) - max);
  const double log_sum = max + std::log(sum);
  out->logprob = static_cast<float>(logits[id] - log_sum);
  out->top.clear();
  if (top == 0) return;
  candidates_.resize(vocab_used_);
  std::iota(candidates_.begin(), candidates_.end(), 0);
  top = std::min(top, vocab_used_);
  std::partial_sort(candidates_.begin(), candidates_.begin() + top, candidates_.end(),
                    [logits](TokenId a, TokenId b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  for (int i = 0; i < top; ++i) {
    out->top.emplace_back(candidates_[i], static_cast<float>(logits[candidates_[i]] - log_sum));
  }
}

}  // namespace gantry::engine
