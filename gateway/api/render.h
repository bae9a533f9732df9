// Deltas as JSON: chunks of a stream and whole replies, for chat and for completions. Field order and presence are what
// strict clients check (no `event:` or `id:` lines on these streams; role, tool call id and name once each).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "gateway/api/choice_decoder.h"

namespace gantry::gateway {

struct Usage {
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;
  uint64_t completion_tokens = 0;
  uint64_t reasoning_tokens = 0;
};

class Renderer {
 public:
  struct Options {
    bool chat = true;
    std::string id;  // "chatcmpl-…"
    std::string model;
    int64_t created = 0;  // s since 1970
    bool include_usage = false;
    bool logprobs = false;
    bool top_logprobs = false;
    size_t choices = 1;
    // The ids of each prompt, which has as many choices as the others; they outlive the renderer. Empty: no reply shows
    // ids, neither these nor those of its deltas.
    std::vector<absl::Span<const uint32_t>> prompt_ids;
  };
  explicit Renderer(Options options);

  // ---- streamed: each returns complete `data: …\n\n` events, possibly none ----
  std::string Delta(size_t choice, const ChoiceDelta& delta);
  std::string FinishEvent(size_t choice, absl::string_view finish_reason);
  std::string UsageEvent(const Usage& usage) const;
  static std::string Done() { return "data: [DONE]\n\n"; }
  static std::string ErrorEvent(const ApiError& error);

  // ---- whole: deltas are collected, then rendered ----
  void Collect(size_t choice, const ChoiceDelta& delta);
  void SetFinish(size_t choice, absl::string_view finish_reason);
  std::string Body(const Usage& usage) const;

 private:
  struct Choice {
    bool begun = false;  // an event is out
    size_t tool_calls = 0;
    size_t characters = 0;  // of text so far: completions' text_offset
    ChoiceDelta all;
    std::string finish_reason;
  };
  struct Part {
    absl::string_view payload;              // the member of the choice that has the text
    absl::string_view logprobs, token_ids;  // JSON, or empty
    absl::string_view finish_reason;        // empty while the choice runs
  };
  std::string Event(size_t choice, const Part& part);
  std::string RoleEvent(size_t choice);
  // `,"prompt_token_ids":[…]` where it belongs: once for each prompt, with its first choice.
  std::string PromptIds(size_t choice) const;
  std::string ChatLogprobs(const std::vector<TokenLogprobs>& tokens) const;
  std::string CompletionLogprobs(const std::vector<TokenLogprobs>& tokens, size_t* characters) const;
  static std::string UsageJson(const Usage& usage);
  static std::string NewCallId();

  const Options options_;
  std::string head_;  // `{"id":…,"model":…,` of every event
  std::vector<Choice> choices_;
};

}  // namespace gantry::gateway
