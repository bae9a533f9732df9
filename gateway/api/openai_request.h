// Bodies of POST /v1/chat/completions and /v1/completions, read and checked: what is here can be run.
//
// Accepted fields follow OpenAI's API; `min_tokens`, `top_k`, `min_p`, `repetition_penalty`, `stop_token_ids`,
// `ignore_eos`, `return_token_ids`, `chat_template_kwargs` are the usual extensions. Fields that nobody knows are
// ignored. What would need another answer than the one asked for (schemas, forced tools, images) is refused by name and
// not silently dropped.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "gateway/api/api_error.h"
#include "gateway/api/json_reader.h"

namespace gantry::gateway {

inline constexpr int kMaxChoices = 16;
inline constexpr size_t kMaxPrompts = 8;
inline constexpr size_t kMaxStops = 4;
inline constexpr size_t kMaxStopBytes = 256;
inline constexpr size_t kMaxMessages = 4096;
inline constexpr size_t kMaxTools = 128;

struct CompletionRequest {
  bool chat = true;
  std::string model;

  // Chat. Messages are as templates want them: content a string, `developer` become `system`, tool call arguments
  // objects.
  Json messages = Json::array();
  Json tools;      // array, or null
  Json variables;  // chat_template_kwargs and what follows from reasoning_effort; object

  // Completions: each prompt is text or ids.
  std::vector<std::variant<std::string, std::vector<uint32_t>>> prompts;

  int n = 1;
  bool stream = false;
  bool include_usage = false;
  std::optional<int64_t> max_tokens;  // >= 1
  int64_t min_tokens = 0;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;  // 0: off
  double min_p = 0;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  double repetition_penalty = 1;
  std::optional<uint64_t> seed;
  std::vector<std::pair<uint32_t, float>> logit_bias;
  bool logprobs = false;
  int top_logprobs = 0;
  std::vector<std::string> stop;
  std::vector<uint32_t> stop_token_ids;
  bool ignore_eos = false;
  bool return_token_ids = false;
  bool parse_tools = false;  // tools given and allowed
};

std::variant<CompletionRequest, ApiError> ParseChatRequest(absl::string_view body);
std::variant<CompletionRequest, ApiError> ParseCompletionsRequest(absl::string_view body);

}  // namespace gantry::gateway
