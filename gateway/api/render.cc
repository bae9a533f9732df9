#include "gateway/api/render.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/common/ids.h"

namespace gantry::gateway {
namespace {

// JSON has no infinities; a token of probability zero has the logprob that OpenAI gives it.
std::string Number(double logprob) {
  return absl::StrFormat("%.9g", std::isfinite(logprob) ? logprob : -9999.0);
}

std::string BytesJson(absl::string_view bytes) {
  std::string out = "[";
  for (size_t i = 0; i < bytes.size(); ++i) {
    absl::StrAppend(&out, i == 0 ? "" : ",", static_cast<int>(static_cast<unsigned char>(bytes[i])));
  }
  out += "]";
  return out;
}

std::string TokenFields(absl::string_view bytes, double logprob) {
  return absl::StrCat("\"token\":", JsonString(bytes), ",\"logprob\":", Number(logprob),
                      ",\"bytes\":", BytesJson(bytes));
}

constexpr absl::string_view kNull = "null";

std::string IdsJson(absl::Span<const uint32_t> ids) {
  return absl::StrCat("[", absl::StrJoin(ids, ","), "]");
}

size_t Characters(absl::string_view bytes) {
  size_t n = 0;
  for (char c : bytes) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

}  // namespace

Renderer::Renderer(Options options) : options_(std::move(options)), choices_(options_.choices) {
  head_ = absl::StrCat("{\"id\":", JsonString(options_.id), ",\"object\":\"",
                       options_.chat ? "chat.completion.chunk" : "text_completion", "\",\"created\":", options_.created,
                       ",\"model\":", JsonString(options_.model), ",");
}

std::string Renderer::NewCallId() {
  return absl::StrCat("call_", NewTimeOrderedId().ToHex());
}

std::string Renderer::PromptIds(size_t choice) const {
  if (options_.prompt_ids.empty()) return "";
  const size_t per_prompt = options_.choices / options_.prompt_ids.size();
  if (choice % per_prompt != 0) return "";
  return absl::StrCat(",\"prompt_token_ids\":", IdsJson(options_.prompt_ids[choice / per_prompt]));
}

std::string Renderer::Event(size_t index, const Part& part) {
  Choice& choice = choices_[index];
  const std::string prompt_ids = choice.begun ? "" : PromptIds(index);
  choice.begun = true;
  std::string out = absl::StrCat("data: ", head_, "\"choices\":[{\"index\":", index, ",", part.payload,
                                 ",\"logprobs\":", part.logprobs.empty() ? kNull : part.logprobs);
  const absl::string_view quote = part.finish_reason.empty() ? "" : "\"";
  absl::StrAppend(&out, ",\"finish_reason\":", quote, part.finish_reason.empty() ? kNull : part.finish_reason, quote);
  if (!part.token_ids.empty()) absl::StrAppend(&out, ",\"token_ids\":", part.token_ids);
  // A chat has one prompt, which is the reply's; completions have one for each choice.
  absl::StrAppend(&out, options_.chat ? "" : prompt_ids, "}]", options_.chat ? prompt_ids : "",
                  options_.include_usage ? ",\"usage\":null" : "", "}\n\n");
  return out;
}

std::string Renderer::RoleEvent(size_t index) {
  if (choices_[index].begun) return "";
  return Event(index, {.payload = R"("delta":{"role":"assistant","content":""})"});
}

std::string Renderer::Delta(size_t index, const ChoiceDelta& delta) {
  Choice& choice = choices_[index];
  std::string token_ids = delta.ids.empty() ? "" : IdsJson(delta.ids);
  if (!options_.chat) {
    if (delta.empty()) return "";
    std::string logprobs =
        options_.logprobs && !delta.logprobs.empty() ? CompletionLogprobs(delta.logprobs, &choice.characters) : "";
    return Event(index, {.payload = absl::StrCat("\"text\":", JsonString(delta.text.content)),
                         .logprobs = logprobs,
                         .token_ids = token_ids});
  }
  std::string out = RoleEvent(index);
  std::string logprobs = options_.logprobs && !delta.logprobs.empty() ? ChatLogprobs(delta.logprobs) : "";
  // Logprobs and ids go with the first event that shows text; those of tokens that show none (markup) with an empty
  // content.
  if (!delta.text.reasoning.empty()) {
    out += Event(index,
                 {.payload = absl::StrCat("\"delta\":{\"reasoning_content\":", JsonString(delta.text.reasoning), "}"),
                  .logprobs = std::exchange(logprobs, ""),
                  .token_ids = std::exchange(token_ids, "")});
  }
  if (!delta.text.content.empty() || !logprobs.empty() || !token_ids.empty()) {
    out += Event(index, {.payload = absl::StrCat("\"delta\":{\"content\":", JsonString(delta.text.content), "}"),
                         .logprobs = logprobs,
                         .token_ids = token_ids});
  }
  for (const ToolCall& call : delta.text.tool_calls) {
    const size_t number = choice.tool_calls++;
    out += Event(index, {.payload = absl::StrCat(
                             "\"delta\":{\"tool_calls\":[{\"index\":", number, ",\"id\":", JsonString(NewCallId()),
                             ",\"type\":\"function\",\"function\":{\"name\":", JsonString(call.name),
                             ",\"arguments\":\"\"}}]}")});
    out += Event(index, {.payload = absl::StrCat("\"delta\":{\"tool_calls\":[{\"index\":", number,
                                                 ",\"function\":{\"arguments\":", JsonString(call.arguments), "}}]}")});
  }
  return out;
}

std::string Renderer::FinishEvent(size_t index, absl::string_view finish_reason) {
  if (!options_.chat) return Event(index, {.payload = R"("text":"")", .finish_reason = finish_reason});
  std::string out = RoleEvent(index);
  return out + Event(index, {.payload = R"("delta":{})", .finish_reason = finish_reason});
}

std::string Renderer::UsageEvent(const Usage& usage) const {
  return absl::StrCat("data: ", head_, "\"choices\":[],\"usage\":", UsageJson(usage), "}\n\n");
}

std::string Renderer::ErrorEvent(const ApiError& error) {
  return absl::StrCat("data: ", ErrorJson(error), "\n\n");
}

void Renderer::Collect(size_t index, const ChoiceDelta& delta) {
  ChoiceDelta& all = choices_[index].all;
  all.text.reasoning += delta.text.reasoning;
  all.text.content += delta.text.content;
  all.text.tool_calls.insert(all.text.tool_calls.end(), delta.text.tool_calls.begin(), delta.text.tool_calls.end());
  all.ids.insert(all.ids.end(), delta.ids.begin(), delta.ids.end());
  all.logprobs.insert(all.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
}

void Renderer::SetFinish(size_t index, absl::string_view finish_reason) {
  choices_[index].finish_reason = std::string(finish_reason);
}

std::string Renderer::Body(const Usage& usage) const {
  std::string out = absl::StrCat(
      "{\"id\":", JsonString(options_.id), ",\"object\":\"", options_.chat ? "chat.completion" : "text_completion",
      "\",\"created\":", options_.created, ",\"model\":", JsonString(options_.model), ",\"choices\":[");
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& choice = choices_[i];
    absl::StrAppend(&out, i == 0 ? "" : ",", "{\"index\":", i, ",");
    size_t characters = 0;
    std::string logprobs = "null";
    if (options_.logprobs) {
      logprobs =
          options_.chat ? ChatLogprobs(choice.all.logprobs) : CompletionLogprobs(choice.all.logprobs, &characters);
    }
    if (options_.chat) {
      const bool only_tools = choice.all.text.content.empty() && !choice.all.text.tool_calls.empty();
      absl::StrAppend(&out, "\"message\":{\"role\":\"assistant\",\"content\":",
                      only_tools ? "null" : JsonString(choice.all.text.content), ",\"refusal\":null");
      if (!choice.all.text.reasoning.empty()) {
        absl::StrAppend(&out, ",\"reasoning_content\":", JsonString(choice.all.text.reasoning));
      }
      if (!choice.all.text.tool_calls.empty()) {
        out += ",\"tool_calls\":[";
        bool first = true;
        for (const ToolCall& call : choice.all.text.tool_calls) {
          absl::StrAppend(&out, first ? "" : ",", "{\"id\":", JsonString(NewCallId()),
                          ",\"type\":\"function\",\"function\":{\"name\":", JsonString(call.name),
                          ",\"arguments\":", JsonString(call.arguments), "}}");
          first = false;
        }
        out += "]";
      }
      out += "}";
    } else {
      absl::StrAppend(&out, "\"text\":", JsonString(choice.all.text.content));
    }
    absl::StrAppend(&out, ",\"logprobs\":", logprobs, ",\"finish_reason\":", JsonString(choice.finish_reason));
    if (!options_.prompt_ids.empty()) {
      absl::StrAppend(&out, ",\"token_ids\":", IdsJson(choice.all.ids), options_.chat ? "" : PromptIds(i));
    }
    out += "}";
  }
  absl::StrAppend(&out, "]", options_.chat ? PromptIds(0) : "", ",\"usage\":", UsageJson(usage), "}");
  return out;
}

std::string Renderer::ChatLogprobs(const std::vector<TokenLogprobs>& tokens) const {
  std::string out = "{\"content\":[";
  for (size_t i = 0; i < tokens.size(); ++i) {
    absl::StrAppend(&out, i == 0 ? "" : ",", "{", TokenFields(tokens[i].bytes, tokens[i].logprob),
                    ",\"top_logprobs\":[");
    for (size_t k = 0; k < tokens[i].top.size(); ++k) {
      absl::StrAppend(&out, k == 0 ? "" : ",", "{", TokenFields(tokens[i].top[k].bytes, tokens[i].top[k].logprob), "}");
    }
    out += "]}";
  }
  out += "],\"refusal\":null}";
  return out;
}

std::string Renderer::CompletionLogprobs(const std::vector<TokenLogprobs>& tokens, size_t* characters) const {
  std::string names, values, tops, offsets;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const char* comma = i == 0 ? "" : ",";
    absl::StrAppend(&names, comma, JsonString(tokens[i].bytes));
    absl::StrAppend(&values, comma, Number(tokens[i].logprob));
    absl::StrAppend(&offsets, comma, *characters);
    *characters += Characters(tokens[i].bytes);
    absl::StrAppend(&tops, comma, "{");
    for (size_t k = 0; k < tokens[i].top.size(); ++k) {
      absl::StrAppend(&tops, k == 0 ? "" : ",", JsonString(tokens[i].top[k].bytes), ":",
                      Number(tokens[i].top[k].logprob));
    }
    tops += "}";
  }
  return absl::StrCat("{\"tokens\":[", names, "],\"token_logprobs\":[", values,
                      "],\"top_logprobs\":", options_.top_logprobs ? absl::StrCat("[", tops, "]") : "null",
                      ",\"text_offset\":[", offsets, "]}");
}

std::string Renderer::UsageJson(const Usage& usage) {
  return absl::StrCat(
      "{\"prompt_tokens\":", usage.prompt_tokens, ",\"completion_tokens\":", usage.completion_tokens,
      ",\"total_tokens\":", usage.prompt_tokens + usage.completion_tokens,
      ",\"prompt_tokens_details\":{\"cached_tokens\":", usage.cached_tokens,
      ",\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":", usage.reasoning_tokens,
      ",\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}");
}

}  // namespace gantry::gateway
