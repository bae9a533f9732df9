// From a checked request to token ids: chat template, tokeniser, and what the model's card allows.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "gateway/api/api_error.h"
#include "gateway/api/openai_request.h"
#include "gateway/clients/model_catalog.h"

namespace gantry::gateway {

struct Prompt {
  std::vector<uint32_t> ids;
  uint32_t max_tokens = 0;  // per choice; prompt and output together fit the context
  // Numbers of leading ids that later prompts will begin with too (engine/text/cache_points.h).
  std::vector<uint32_t> cache_points;
};

struct Prompts {
  std::vector<Prompt> prompts;       // one for chat
  bool reasoning = false;            // the model marks its reasoning
  bool starts_in_reasoning = false;  // the prompt ends inside it
};

// Errors: 400 with the field that is at fault; context_length_exceeded when it does not fit. Takes time in proportion
// to the text (5 MB/s and more), but text that cannot fit the context is refused before it is tokenised.
std::variant<Prompts, ApiError> BuildPrompts(const CompletionRequest& request, const Model& model);

}  // namespace gantry::gateway
