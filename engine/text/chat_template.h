// A model's chat template: a conversation -> the prompt's text, stretch by stretch with who wrote it.
//
// The template is rendered as transformers does it (jinja2 with trim_blocks, lstrip_blocks, loop controls, tojson =
// json.dumps(ensure_ascii=False), raise_exception, strftime_now), bounded in steps and output. Only the template's own
// words are trusted: control tokens inside messages, tools and arguments stay plain text (Tokenizer::Encode of
// segments). Immutable after parsing; Render may be called from any thread.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/text/tokenizer.h"

namespace gantry::engine::text {

class ChatTemplate {
 public:
  // INVALID_ARGUMENT names the template's line.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(absl::string_view source);
  ~ChatTemplate();

  struct Input {
    const nlohmann::ordered_json* messages = nullptr;  // array; tool call arguments as objects, not as strings
    const nlohmann::ordered_json* tools = nullptr;     // array or null
    // Further variables (enable_thinking, documents, ...); untrusted like the rest. Null: none.
    const nlohmann::ordered_json* variables = nullptr;
    bool add_generation_prompt = true;
    // Control tokens that templates name: these are the model's own words.
    std::string bos_token, eos_token;
  };
  // Neighbouring stretches differ in trust. INVALID_ARGUMENT: the template refuses the conversation (raise_exception's
  // message) or fails on it (names the line); RESOURCE_EXHAUSTED: beyond the limits.
  absl::StatusOr<std::vector<Segment>> Render(const Input& input) const;

 private:
  struct Parsed;
  ChatTemplate();
  std::unique_ptr<const Parsed> parsed_;
};

// The template of a model directory: chat_template.jinja, else `chat_template` in tokenizer_config.json. NOT_FOUND
// names both.
absl::StatusOr<std::string> ReadChatTemplateSource(const std::string& model_directory);

// All segments' text.
std::string JoinSegments(const std::vector<Segment>& segments);

}  // namespace gantry::engine::text
