#include "gateway/api/generate_start.h"

#include <algorithm>
#include <string>

namespace gantry::gateway {
namespace {

// The wire wants top_p in (0, 1]; the API also takes 0, which means the most likely token alone.
constexpr float kTopPMin = 1e-6F;

std::string Pack(const std::vector<uint32_t>& ids) {
  std::string out;
  out.reserve(4 * ids.size());
  for (const uint32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(id >> shift));
  }
  return out;
}

}  // namespace

v1::Sampling MakeSampling(const CompletionRequest& request, const v1::ModelCard& card) {
  const v1::DefaultSampling& defaults = card.default_sampling();
  v1::Sampling out;
  out.set_temperature(static_cast<float>(
      request.temperature.value_or(defaults.has_temperature() ? static_cast<double>(defaults.temperature()) : 1.0)));
  out.set_top_p(std::max(kTopPMin, static_cast<float>(request.top_p.value_or(
                                       defaults.has_top_p() ? static_cast<double>(defaults.top_p()) : 1.0))));
  out.set_top_k(static_cast<uint32_t>(request.top_k.value_or(defaults.has_top_k() ? defaults.top_k() : 0)));
  out.set_min_p(static_cast<float>(request.min_p));
  out.set_presence_penalty(static_cast<float>(request.presence_penalty));
  out.set_frequency_penalty(static_cast<float>(request.frequency_penalty));
  out.set_repetition_penalty(static_cast<float>(request.repetition_penalty));
  out.set_min_tokens(static_cast<uint32_t>(request.min_tokens));
  out.set_logprobs(request.logprobs);
  out.set_top_logprobs(static_cast<uint32_t>(request.top_logprobs));
  for (const auto& [id, bias] : request.logit_bias) {
    v1::LogitBias* entry = out.add_logit_bias();
    entry->set_token_id(id);
    entry->set_bias(bias);
  }
  if (!request.ignore_eos) *out.mutable_stop_ids() = card.stop_ids();
  for (const uint32_t id : request.stop_token_ids) out.add_stop_ids(id);
  return out;
}

v1::GenerateStart MakeGenerateStart(const CompletionRequest& request, const Model& model, const Prompt& prompt,
                                    const StartIds& ids, uint64_t seed, absl::Duration deadline) {
  v1::GenerateStart start;
  start.set_request_id(ids.request.ToBytes());
  start.set_hold_id(ids.hold.ToBytes());
  start.set_tenant(ids.tenant.ToBytes());
  start.set_attempt(1);
  start.set_model(model.card.name());
  start.set_prompt_ids(Pack(prompt.ids));
  for (const uint32_t point : prompt.cache_points) start.add_cache_points(point);
  for (int i = 0; i < request.n; ++i) {
    v1::SequenceStart* sequence = start.add_sequences();
    sequence->set_index(static_cast<uint32_t>(i));
    sequence->set_seed(seed);
  }
  *start.mutable_sampling() = MakeSampling(request, model.card);
  start.set_max_tokens(prompt.max_tokens);
  start.set_deadline_ms(static_cast<uint64_t>(std::max<int64_t>(1, absl::ToInt64Milliseconds(deadline))));
  return start;
}

ChoiceDecoder::Options DecoderOptions(const CompletionRequest& request, const Model& model, const Prompts& prompts) {
  ChoiceDecoder::Options options;
  options.stops = request.stop;
  if (!request.ignore_eos) options.stop_ids.assign(model.card.stop_ids().begin(), model.card.stop_ids().end());
  options.stop_ids.insert(options.stop_ids.end(), request.stop_token_ids.begin(), request.stop_token_ids.end());
  options.ids = request.return_token_ids;
  options.parser.reasoning = prompts.reasoning;
  options.parser.starts_in_reasoning = prompts.starts_in_reasoning;
  options.parser.tools = request.parse_tools;
  options.parser.schemas = request.parse_tools ? &request.tools : nullptr;
  return options;
}

}  // namespace gantry::gateway
