// What a model wrote, split into what the API has separate fields for: reasoning (<think>…</think>), answer, tool calls
// (<tool_call>…</tool_call> around Hermes' JSON or Qwen's <function=…><parameter=…> form).
//
// Text comes in pieces and the result does not depend on where they end. A tool call appears once it is complete and
// well formed; what is not is given as the text it is. Not thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "gateway/api/json_reader.h"

namespace gantry::gateway {

struct ToolCall {
  std::string name;
  std::string arguments;  // text of a JSON object
};

struct ParsedOutput {
  std::string reasoning;
  std::string content;
  std::vector<ToolCall> tool_calls;
  bool empty() const { return reasoning.empty() && content.empty() && tool_calls.empty(); }
};

class OutputParser {
 public:
  struct Options {
    bool reasoning = false;            // split reasoning off
    bool starts_in_reasoning = false;  // the prompt ended with <think>
    bool tools = false;                // look for tool calls
    const Json* schemas = nullptr;  // the request's tools: say which arguments are strings. May be null; outlives this
  };
  explicit OutputParser(const Options& options);

  void Push(absl::string_view text, ParsedOutput* out);
  // The end: everything held back comes out.
  void Flush(ParsedOutput* out);
  // Bytes held back or waiting for the end of a tool call.
  size_t pending() const { return buffer_.size() + space_.size(); }
  bool in_reasoning() const { return state_ == State::kReasoning; }

 private:
  enum class State { kStart, kReasoning, kContent, kToolCall };
  void Run(bool at_end, ParsedOutput* out);
  void EmitReasoning(absl::string_view text, ParsedOutput* out);
  void EmitContent(absl::string_view text, ParsedOutput* out);
  bool ParseToolCall(absl::string_view body, ToolCall* call) const;
  bool ParseFunctionForm(absl::string_view body, ToolCall* call) const;

  const Options options_;
  State state_;
  std::string buffer_;          // not looked at to its end
  std::string space_;           // white space that is dropped when nothing follows it
  bool trim_reasoning_ = true;  // nothing but white space so far
  bool trim_content_ = false;
};

}  // namespace gantry::gateway
