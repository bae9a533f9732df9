// What a request may ask of the sampler. Plain data; Validate() is the one place that knows the ranges.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/model_spec.h"

namespace gantry::engine {

inline constexpr int kTopLogprobsMax = 20;

struct SamplingParams {
  float temperature = 1.0f;                           // [0, 2]; 0 is greedy: no noise
  float top_p = 1.0f;                                 // (0, 1]
  int top_k = 0;                                      // 0: off
  float min_p = 0.0f;                                 // [0, 1]
  float presence_penalty = 0.0f;                      // [-2, 2], over generated ids
  float frequency_penalty = 0.0f;                     // [-2, 2], over generated ids
  float repetition_penalty = 1.0f;                    // (0, 10], over prompt and generated ids
  uint64_t seed = 0;                                  // always set by the caller
  uint32_t choice = 0;                                // index among the n choices of one request: part of the noise key
  int min_tokens = 0;                                 // stop ids are masked before this many generated ids
  std::vector<TokenId> stop_ids;                      // end the sequence; the id itself is committed and not shown
  std::vector<std::pair<TokenId, float>> logit_bias;  // at most 300, each in [-100, 100]
  bool logprobs = false;
  int top_logprobs = 0;  // [0, 20]
  // The first generated ids, whatever is chosen (teacher forcing: a benchmark on a given text). Logits, logprobs and
  // the choice itself are computed as always; drafts are right when they agree with these ids.
  std::vector<TokenId> forced;

  // INVALID_ARGUMENT naming the field, its value and its range.
  absl::Status Validate(int vocab_rows) const;
};

}  // namespace gantry::engine
