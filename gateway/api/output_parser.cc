#include "gateway/api/output_parser.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace gantry::gateway {
namespace {

constexpr char kThink[] = "<think>";
constexpr char kThinkEnd[] = "</think>";
constexpr char kToolCall[] = "<tool_call>";
constexpr char kToolCallEnd[] = "</tool_call>";

// How much of the end of `text` may be the beginning of `marker`.
size_t PartialEnd(absl::string_view text, absl::string_view marker) {
  for (size_t n = std::min(text.size(), marker.size() - 1); n > 0; --n) {
    if (absl::EndsWith(text, marker.substr(0, n))) return n;
  }
  return 0;
}

absl::string_view TrailingSpace(absl::string_view text) {
  size_t end = text.find_last_not_of(" \t\r\n");
  return end == absl::string_view::npos ? text : text.substr(end + 1);
}

bool IsToolName(absl::string_view name) {
  return !name.empty() && name.size() <= 256 && name.find_first_of("<>\n\r") == absl::string_view::npos;
}

}  // namespace

OutputParser::OutputParser(const Options& options)
    : options_(options),
      state_(!options.reasoning            ? State::kContent
             : options.starts_in_reasoning ? State::kReasoning
                                           : State::kStart) {}

void OutputParser::Push(absl::string_view text, ParsedOutput* out) {
  buffer_.append(text.data(), text.size());
  Run(/*at_end=*/false, out);
}

void OutputParser::Flush(ParsedOutput* out) {
  Run(/*at_end=*/true, out);
  space_.clear();
}

void OutputParser::EmitReasoning(absl::string_view text, ParsedOutput* out) {
  if (trim_reasoning_) text = absl::StripLeadingAsciiWhitespace(text);
  if (text.empty()) return;
  trim_reasoning_ = false;
  absl::string_view space = TrailingSpace(text);
  if (space.size() < text.size()) {
    absl::StrAppend(&out->reasoning, space_, text.substr(0, text.size() - space.size()));
    space_.clear();
  }
  space_.append(space.data(), space.size());
}

void OutputParser::EmitContent(absl::string_view text, ParsedOutput* out) {
  if (trim_content_) text = absl::StripLeadingAsciiWhitespace(text);
  if (text.empty()) return;
  trim_content_ = false;
  if (!options_.tools) {
    absl::StrAppend(&out->content, text);
    return;
  }
  // White space before a tool call belongs to neither.
  absl::string_view space = TrailingSpace(text);
  if (space.size() < text.size()) {
    absl::StrAppend(&out->content, space_, text.substr(0, text.size() - space.size()));
    space_.clear();
  }
  space_.append(space.data(), space.size());
}

void OutputParser::Run(bool at_end, ParsedOutput* out) {
  for (;;) {
    switch (state_) {
      case State::kStart: {
        // Reasoning that the model itself opens comes first or not at all.
        absl::string_view text = absl::StripLeadingAsciiWhitespace(buffer_);
        if (absl::StartsWith(text, kThink)) {
          buffer_ = std::string(text.substr(std::size(kThink) - 1));
          state_ = State::kReasoning;
          continue;
        }
        if (!at_end && absl::StartsWith(kThink, text)) return;
        state_ = State::kContent;
        continue;
      }
      case State::kReasoning: {
        size_t end = buffer_.find(kThinkEnd);
        if (end == std::string::npos) {
          size_t keep = at_end ? 0 : PartialEnd(buffer_, kThinkEnd);
          std::string text = buffer_.substr(0, buffer_.size() - keep);
          buffer_.erase(0, text.size());
          EmitReasoning(text, out);
          return;
        }
        std::string text = buffer_.substr(0, end);
        buffer_.erase(0, end + std::size(kThinkEnd) - 1);
        EmitReasoning(text, out);
        space_.clear();
        trim_content_ = true;
        state_ = State::kContent;
        continue;
      }
      case State::kContent: {
        size_t begin = options_.tools ? buffer_.find(kToolCall) : std::string::npos;
        if (begin == std::string::npos) {
          size_t keep = at_end || !options_.tools ? 0 : PartialEnd(buffer_, kToolCall);
          std::string text = buffer_.substr(0, buffer_.size() - keep);
          buffer_.erase(0, text.size());
          EmitContent(text, out);
          // After a tool call trailing white space means nothing; in an answer it is the model's.
          if (at_end && !trim_content_) absl::StrAppend(&out->content, std::exchange(space_, ""));
          return;
        }
        std::string text = buffer_.substr(0, begin);
        buffer_.erase(0, begin);
        EmitContent(text, out);
        state_ = State::kToolCall;
        continue;
      }
      case State::kToolCall: {
        size_t end = buffer_.find(kToolCallEnd);
        if (end == std::string::npos && !at_end) return;
        ToolCall call;
        absl::string_view body(buffer_);
        body.remove_prefix((std::size(kToolCall) - 1));
        const size_t consumed = end == std::string::npos ? buffer_.size() : end + std::size(kToolCallEnd) - 1;
        if (end != std::string::npos) body = body.substr(0, end - (std::size(kToolCall) - 1));
        if (ParseToolCall(absl::StripAsciiWhitespace(body), &call)) {
          out->tool_calls.push_back(std::move(call));
          space_.clear();
          trim_content_ = true;
        } else {
          trim_content_ = false;
          absl::StrAppend(&out->content, std::exchange(space_, ""), buffer_.substr(0, consumed));
        }
        buffer_.erase(0, consumed);
        state_ = State::kContent;
        continue;
      }
    }
  }
}

bool OutputParser::ParseToolCall(absl::string_view body, ToolCall* call) const {
  if (absl::StartsWith(body, "<function=")) return ParseFunctionForm(body, call);
  auto parsed = ParseJsonObject(body);
  if (std::holds_alternative<ApiError>(parsed)) return false;
  const Json& json = std::get<Json>(parsed);
  auto name = json.find("name");
  if (name == json.end() || !name->is_string() || !IsToolName(name->get_ref<const std::string&>())) return false;
  call->name = name->get<std::string>();
  auto arguments = json.find("arguments");
  if (arguments == json.end()) {
    call->arguments = "{}";
  } else if (arguments->is_object()) {
    call->arguments = arguments->dump();
  } else if (arguments->is_string()) {
    call->arguments = arguments->get<std::string>();
  } else {
    return false;
  }
  return true;
}

// <function=NAME> (<parameter=KEY>\nVALUE\n</parameter>)* </function>
bool OutputParser::ParseFunctionForm(absl::string_view body, ToolCall* call) const {
  absl::ConsumePrefix(&body, "<function=");
  size_t close = body.find('>');
  if (close == absl::string_view::npos || !IsToolName(body.substr(0, close))) return false;
  call->name = std::string(absl::StripAsciiWhitespace(body.substr(0, close)));
  body.remove_prefix(close + 1);
  const Json* properties = nullptr;
  if (options_.schemas != nullptr) {
    for (const Json& tool : *options_.schemas) {
      auto function = tool.find("function");
      if (function == tool.end() || function->value("name", Json()) != Json(call->name)) continue;
      auto parameters = function->find("parameters");
      if (parameters == function->end() || !parameters->is_object()) continue;
      auto found = parameters->find("properties");
      if (found != parameters->end() && found->is_object()) properties = &*found;
    }
  }
  Json arguments = Json::object();
  for (;;) {
    body = absl::StripLeadingAsciiWhitespace(body);
    if (absl::StartsWith(body, "</function>")) break;
    if (!absl::ConsumePrefix(&body, "<parameter=")) return false;
    size_t name_end = body.find('>');
    if (name_end == absl::string_view::npos) return false;
    std::string key(body.substr(0, name_end));
    body.remove_prefix(name_end + 1);
    size_t value_end = body.find("</parameter>");
    if (value_end == absl::string_view::npos || arguments.size() >= 512) return false;
    absl::string_view value = body.substr(0, value_end);
    body.remove_prefix(value_end + absl::string_view("</parameter>").size());
    absl::ConsumePrefix(&value, "\n");
    absl::ConsumeSuffix(&value, "\n");
    bool is_text = false;
    if (properties != nullptr) {
      auto schema = properties->find(key);
      is_text = schema != properties->end() && schema->is_object() && schema->value("type", Json()) == Json("string");
    }
    // Without a word from the schema, what reads as JSON is JSON.
    Json parsed = Json::value_t::discarded;
    if (!is_text) {
      auto wrapped = ParseJsonObject(absl::StrCat("{\"v\":", value, "}"));
      if (auto* object = std::get_if<Json>(&wrapped); object != nullptr && object->size() == 1) {
        parsed = std::move((*object)["v"]);
      }
    }
    arguments[key] = parsed.is_discarded() ? Json(std::string(value)) : std::move(parsed);
  }
  call->arguments = arguments.dump(-1, ' ', false, Json::error_handler_t::replace);
  return true;
}

}  // namespace gantry::gateway
