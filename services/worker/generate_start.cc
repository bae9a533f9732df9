// GenerateStart -> engine requests: every field checked and named.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "services/worker/generate_call.h"

namespace gantry::worker {
namespace {

constexpr int kSequencesMax = 16;
constexpr uint64_t kDeadlineMsMax = 86'400'000;
constexpr size_t kIdBytes = 16;

absl::Status Wrong(absl::string_view field, absl::string_view expected, absl::string_view found) {
  return absl::InvalidArgumentError(absl::StrCat("start.", field, ": expected ", expected, ", found ", found));
}

absl::StatusOr<std::vector<engine::TokenId>> UnpackIds(absl::string_view field, const std::string& packed) {
  if (packed.size() % sizeof(uint32_t) != 0)
    return Wrong(field, "packed uint32", absl::StrCat(packed.size(), " bytes"));
  std::vector<engine::TokenId> ids(packed.size() / sizeof(uint32_t));
  for (size_t i = 0; i < ids.size(); ++i) {
    uint32_t id = 0;
    std::memcpy(&id, packed.data() + i * sizeof(id), sizeof(id));
    if (id > INT32_MAX) return Wrong(field, "token ids", absl::StrCat(id));
    ids[i] = static_cast<engine::TokenId>(id);
  }
  return ids;
}

engine::SamplingParams ReadSampling(const v1::Sampling& sampling) {
  engine::SamplingParams out;
  out.temperature = sampling.temperature();
  out.top_p = sampling.top_p();
  out.top_k = static_cast<int>(std::min<uint32_t>(sampling.top_k(), INT32_MAX));
  out.min_p = sampling.min_p();
  out.presence_penalty = sampling.presence_penalty();
  out.frequency_penalty = sampling.frequency_penalty();
  out.repetition_penalty = sampling.repetition_penalty();
  out.min_tokens = static_cast<int>(std::min<uint32_t>(sampling.min_tokens(), INT32_MAX));
  for (const uint32_t id : sampling.stop_ids()) out.stop_ids.push_back(static_cast<engine::TokenId>(id));
  for (const v1::LogitBias& bias : sampling.logit_bias())
    out.logit_bias.emplace_back(static_cast<engine::TokenId>(bias.token_id()), bias.bias());
  out.logprobs = sampling.logprobs();
  out.top_logprobs = static_cast<int>(std::min<uint32_t>(sampling.top_logprobs(), INT32_MAX));
  return out;
}

}  // namespace

absl::StatusOr<std::vector<engine::Request>> ReadStart(const v1::GenerateStart& start,
                                                       const std::string& served_model) {
  for (const auto& [field, value] : {std::pair<const char*, const std::string*>{"request_id", &start.request_id()},
                                     {"hold_id", &start.hold_id()},
                                     {"tenant", &start.tenant()}}) {
    if (value->size() != kIdBytes) return Wrong(field, "16 bytes", absl::StrCat(value->size(), " bytes"));
  }
  if (start.model() != served_model) {
    return absl::NotFoundError(
        absl::StrCat("start.model: `", start.model(), "` is not served here; this worker has `", served_model, "`"));
  }
  if (start.attempt() < 1) return Wrong("attempt", "at least 1", absl::StrCat(start.attempt()));
  if (start.sequences_size() < 1 || start.sequences_size() > kSequencesMax) {
    return Wrong("sequences", absl::StrCat("1 to ", kSequencesMax), absl::StrCat(start.sequences_size()));
  }
  if (start.max_tokens() < 1 || start.max_tokens() > INT32_MAX)
    return Wrong("max_tokens", "at least 1", absl::StrCat(start.max_tokens()));
  if (start.deadline_ms() < 1 || start.deadline_ms() > kDeadlineMsMax) {
    return Wrong("deadline_ms", absl::StrCat("1 to ", kDeadlineMsMax), absl::StrCat(start.deadline_ms()));
  }
  if (start.priority() < -100 || start.priority() > 100)
    return Wrong("priority", "-100 to 100", absl::StrCat(start.priority()));
  if (start.cache_points_size() > 4) return Wrong("cache_points", "at most 4", absl::StrCat(start.cache_points_size()));
  GANTRY_ASSIGN_OR_RETURN(const std::vector<engine::TokenId> prompt, UnpackIds("prompt_ids", start.prompt_ids()));
  for (int i = 0; i < start.cache_points_size(); ++i) {
    const uint32_t point = start.cache_points(i), least = i == 0 ? 1 : start.cache_points(i - 1) + 1;
    if (point >= least && point <= prompt.size()) continue;
    return Wrong(absl::StrCat("cache_points[", i, "]"),
                 absl::StrCat("ascending numbers of tokens up to the prompt's ", prompt.size()), absl::StrCat(point));
  }
  const absl::Time deadline = absl::Now() + absl::Milliseconds(start.deadline_ms());

  std::vector<engine::Request> requests;
  for (int i = 0; i < start.sequences_size(); ++i) {
    const v1::SequenceStart& sequence = start.sequences(i);
    if (sequence.index() != static_cast<uint32_t>(i))
      return Wrong(absl::StrCat("sequences[", i, "].index"), absl::StrCat(i), absl::StrCat(sequence.index()));
    if (sequence.until_index() < 1) return Wrong(absl::StrCat("sequences[", i, "].until_index"), "at least 1", "0");
    GANTRY_ASSIGN_OR_RETURN(const std::vector<engine::TokenId> earlier,
                            UnpackIds("sequences.generated_ids", sequence.generated_ids()));
    engine::Request request;
    request.ids = prompt;
    request.ids.insert(request.ids.end(), earlier.begin(), earlier.end());
    request.generated_from = static_cast<int>(prompt.size());
    request.sampling = ReadSampling(start.sampling());
    request.sampling.seed = sequence.seed();
    request.sampling.choice = sequence.index();
    request.max_tokens = static_cast<int>(start.max_tokens());
    request.until_index = static_cast<int>(std::min<uint32_t>(sequence.until_index(), INT32_MAX));
    request.cache_salt = start.tenant();
    for (const uint32_t point : start.cache_points()) request.cache_points.push_back(static_cast<int>(point));
    request.priority = start.priority();
    request.deadline = deadline;
    request.prompt_logprobs = start.prompt_logprobs() && i == 0;
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace gantry::worker
