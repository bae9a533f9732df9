#include "engine/sample/sampling_params.h"

#include "absl/strings/str_cat.h"

namespace gantry::engine {
namespace {

constexpr size_t kBiasesMax = 300;
constexpr size_t kStopIdsMax = 64;

// NaN is in no range.
absl::Status InRange(const char* field, double value, double min, double max, bool min_open = false) {
  if ((min_open ? value > min : value >= min) && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", expected a value in ", min_open ? "(" : "[", min, ", ", max, "]"));
}

}  // namespace

absl::Status SamplingParams::Validate(int vocab_rows) const {
  absl::Status status = InRange("temperature", temperature, 0, 2);
  status.Update(InRange("top_p", top_p, 0, 1, /*min_open=*/true));
  status.Update(InRange("top_k", top_k, 0, 1 << 30));
  status.Update(InRange("min_p", min_p, 0, 1));
  status.Update(InRange("presence_penalty", presence_penalty, -2, 2));
  status.Update(InRange("frequency_penalty", frequency_penalty, -2, 2));
  status.Update(InRange("repetition_penalty", repetition_penalty, 0, 10, /*min_open=*/true));
  status.Update(InRange("min_tokens", min_tokens, 0, 1 << 30));
  status.Update(InRange("top_logprobs", top_logprobs, 0, kTopLogprobsMax));
  status.Update(InRange("logit_bias entries", logit_bias.size(), 0, kBiasesMax));
  status.Update(InRange("stop_ids entries", stop_ids.size(), 0, kStopIdsMax));
  for (const auto& [id, bias] : logit_bias) {
    status.Update(InRange("logit_bias token id", id, 0, vocab_rows - 1));
    status.Update(InRange("logit_bias", bias, -100, 100));
  }
  for (const TokenId id : stop_ids) status.Update(InRange("stop_ids token id", id, 0, vocab_rows - 1));
  for (const TokenId id : forced) status.Update(InRange("forced token id", id, 0, vocab_rows - 1));
  return status;
}

}  // namespace gantry::engine
