#include "gateway/api/prompt.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/text/cache_points.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace gantry::gateway {
namespace {

using engine::TokenId;
using engine::text::Segment;

constexpr char kThink[] = "<think>";
// Unicode normalisation can make text shorter before it is tokenised; by less than this.
constexpr size_t kNormalisationShrinks = 4;

ApiError TooLong(const CompletionRequest& request, const Model& model, absl::string_view found) {
  return InvalidRequest(
      absl::StrCat("This model's maximum context length is ", model.card.context_tokens(), " tokens, but ", found, "."),
      request.chat ? "messages" : "prompt", "context_length_exceeded");
}

// Nothing but a certain overflow is refused here: a token stands for at most longest_token_bytes.
std::optional<ApiError> CheckBytes(const CompletionRequest& request, const Model& model, size_t bytes) {
  const size_t tokens_min = bytes / (kNormalisationShrinks * std::max<size_t>(1, model.longest_token_bytes));
  if (tokens_min < model.card.context_tokens()) return std::nullopt;
  return TooLong(request, model, absl::StrCat("the prompt of ", bytes, " bytes has over ", tokens_min, " tokens"));
}

// Every id that the request names exists.
std::optional<ApiError> CheckIds(const CompletionRequest& request, const Model& model) {
  const uint32_t rows = model.card.vocab_rows();
  const auto outside = [&](uint32_t id, std::string param) {
    return InvalidRequest(
        absl::StrCat("Invalid '", param, "': token id ", id, " is outside the vocabulary of ", rows, "."), param,
        "invalid_value");
  };
  for (const auto& [id, bias] : request.logit_bias) {
    if (id >= rows) return outside(id, "logit_bias");
  }
  for (const uint32_t id : request.stop_token_ids) {
    if (id >= rows) return outside(id, "stop_token_ids");
  }
  for (const auto& prompt : request.prompts) {
    const auto* ids = std::get_if<std::vector<uint32_t>>(&prompt);
    if (ids == nullptr) continue;
    for (const uint32_t id : *ids) {
      if (id >= rows) return outside(id, "prompt");
    }
  }
  return std::nullopt;
}

// What fits, or why it does not.
std::optional<ApiError> SetLimit(const CompletionRequest& request, const Model& model, Prompt* prompt) {
  const uint64_t context = model.card.context_tokens();
  if (prompt->ids.size() >= context) {
    return TooLong(request, model, absl::StrCat("the prompt has ", prompt->ids.size(), " tokens"));
  }
  const uint64_t room = context - prompt->ids.size();
  const uint64_t wanted = request.max_tokens ? static_cast<uint64_t>(*request.max_tokens) : room;
  if (wanted > room) {
    ApiError error = TooLong(request, model,
                             absl::StrCat("you asked for ", prompt->ids.size() + wanted, " tokens (",
                                          prompt->ids.size(), " in the prompt, ", wanted, " for the output)"));
    error.param = "max_tokens";
    return error;
  }
  prompt->max_tokens = static_cast<uint32_t>(wanted);
  return std::nullopt;
}

std::vector<uint32_t> Unsigned(const std::vector<TokenId>& ids) {
  return std::vector<uint32_t>(ids.begin(), ids.end());
}

std::variant<Prompts, ApiError> BuildChat(const CompletionRequest& request, const Model& model) {
  if (model.chat_template == nullptr) {
    return InvalidRequest(absl::StrCat("The model \"", request.model, "\" has no chat template; use /v1/completions."),
                          "model", "unsupported_value");
  }
  engine::text::ChatTemplate::Input input;
  input.messages = &request.messages;
  input.tools = &request.tools;
  input.variables = &request.variables;
  input.bos_token = model.bos_token;
  input.eos_token = model.eos_token;
  absl::StatusOr<std::vector<Segment>> segments = model.chat_template->Render(input);
  if (!segments.ok()) {
    return InvalidRequest(
        absl::StrCat("The model's chat template refuses this conversation: ", segments.status().message()), "messages",
        "invalid_value");
  }
  size_t bytes = 0;
  for (const Segment& segment : *segments) bytes += segment.text.size();
  if (auto error = CheckBytes(request, model, bytes)) return *std::move(error);
  absl::StatusOr<std::vector<TokenId>> ids = model.tokenizer->Encode(*segments);
  if (!ids.ok()) return InvalidRequest(std::string(ids.status().message()), "messages", "invalid_value");
  if (ids->empty()) return InvalidRequest("The conversation renders to an empty prompt.", "messages", "invalid_value");

  Prompts out;
  out.reasoning = model.tokenizer->Find(kThink).has_value();
  if (out.reasoning && !segments->empty() && segments->back().trusted) {
    out.starts_in_reasoning = absl::EndsWith(absl::StripTrailingAsciiWhitespace(segments->back().text), kThink);
  }
  Prompt prompt{Unsigned(*ids), 0, {}};
  prompt.cache_points =
      Unsigned(engine::text::CachePoints(*model.chat_template, input, *model.tokenizer, *segments, *ids));
  out.prompts.push_back(std::move(prompt));
  return out;
}

std::variant<Prompts, ApiError> BuildPlain(const CompletionRequest& request, const Model& model) {
  Prompts out;
  for (const auto& prompt : request.prompts) {
    if (const auto* ids = std::get_if<std::vector<uint32_t>>(&prompt)) {
      out.prompts.push_back({*ids, 0, {}});
      continue;
    }
    const std::string& text = std::get<std::string>(prompt);
    if (auto error = CheckBytes(request, model, text.size())) return *std::move(error);
    // The whole prompt is the tenant's own, template included: control tokens are recognised in it.
    absl::StatusOr<std::vector<TokenId>> ids = model.tokenizer->Encode(text, /*parse_special=*/true);
    if (!ids.ok()) return InvalidRequest(std::string(ids.status().message()), "prompt", "invalid_value");
    const std::vector<TokenId>& prefix = model.tokenizer->prefix();
    ids->insert(ids->begin(), prefix.begin(), prefix.end());
    if (ids->empty()) return InvalidRequest("The prompt has no tokens.", "prompt", "invalid_value");
    out.prompts.push_back({Unsigned(*ids), 0, {}});
  }
  return out;
}

}  // namespace

std::variant<Prompts, ApiError> BuildPrompts(const CompletionRequest& request, const Model& model) {
  if (auto error = CheckIds(request, model)) return *std::move(error);
  std::variant<Prompts, ApiError> built = request.chat ? BuildChat(request, model) : BuildPlain(request, model);
  if (auto* prompts = std::get_if<Prompts>(&built)) {
    for (Prompt& prompt : prompts->prompts) {
      if (auto error = SetLimit(request, model, &prompt)) return *std::move(error);
    }
  }
  return built;
}

}  // namespace gantry::gateway
