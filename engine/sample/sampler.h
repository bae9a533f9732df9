// From logits to one token, deterministically.
//
// Sampling is argmax over (processed logit / temperature + Gumbel noise), which draws exactly from the softmax. The
// noise is a pure function of (seed, choice, absolute position, token id), so a token depends on its logits alone: not
// on batch, drafter, draft depth or a resume on another machine. A draft is the argmax of the MTP layer's logits under
// the SAME noise and is accepted iff it equals the target's own choice; so the output is identical with and without
// speculation and no draft distribution has to be stored. Greedy (temperature 0) is the case without noise. Ties go to
// the lower id.
//
// Order: padding rows masked, logit_bias, min_tokens (stop ids impossible), repetition, presence and frequency
// penalties, temperature, top_k, top_p, min_p, choice. Logprobs are of the raw distribution, after the padding mask and
// before all else.
//
// Threads: a Sampler belongs to one thread; a SequenceSampler is used with one at a time. Choose does not allocate.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "engine/sample/sampling_params.h"

namespace gantry::engine {

// The standard Gumbel variate of one (seed, choice, position, token): -log(-log(u)), u = (bits + 0.5) / 2^32.
// In (-3.15, 22.2).
float GumbelNoise(uint64_t seed, uint32_t choice, uint32_t position, TokenId token);

// What one sequence's choices depend on beside logits.
class SequenceSampler {
 public:
  // `ids` are prompt and earlier output; those from generated_from on count as generated.
  void Open(const SamplingParams& params, int vocab_rows, absl::Span<const TokenId> ids, int generated_from);

  const SamplingParams& params() const { return params_; }
  int generated() const { return generated_; }
  bool IsStop(TokenId id) const;
  // What the request forces the next token to be; -1: nothing. For the target's choice alone: a drafter does not know.
  TokenId Forced() const;

  void Commit(TokenId id);  // id became the next generated token
  void Undo(TokenId id);    // takes the last Commit(id) back (a draft beyond the first)

 private:
  friend class Sampler;
  bool penalised() const { return !seen_.empty(); }

  SamplingParams params_;
  int generated_ = 0;
  std::vector<uint32_t> generated_counts_;  // [vocab], only with penalties
  std::vector<uint32_t> seen_;              // [vocab] occurrences in prompt and output, only with penalties
};

struct LogprobRow {
  float logprob = 0;
  absl::InlinedVector<std::pair<TokenId, float>, kTopLogprobsMax> top;  // best first
};

class Sampler {
 public:
  // vocab_used <= vocab_rows: rows from vocab_used on are padding.
  Sampler(int vocab_rows, int vocab_used);

  // The next token after absolute position `position - 1`, i.e. the token that will stand at `position`. `logits`
  // [vocab_rows] is overwritten. INTERNAL when a logit is not finite.
  absl::Status Choose(const SequenceSampler& sequence, int position, float* logits, TokenId* id);

  // Natural-log probability of `id` and the `top` best, from raw logits (not yet given to Choose).
  void Logprobs(const float* logits, TokenId id, int top, LogprobRow* out);

 private:
  void Process(const SequenceSampler& sequence, float* logits) const;
  // Fills candidates_ with the ids that top_k, top_p and min_p leave; logits are already divided by the temperature.
  void Truncate(const SamplingParams& params, const float* logits);

  int vocab_rows_;
  int vocab_used_;
  std::vector<TokenId> candidates_;  // scratch
};

}  // namespace gantry::engine
