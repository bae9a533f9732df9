#include "engine/text/chat_template.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/mapped_file.h"
#include "engine/base/status_macros.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/parser.h"

namespace gantry::engine::text {

struct ChatTemplate::Parsed {
  jinja::Body body;
};

ChatTemplate::ChatTemplate() = default;
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(absl::string_view source) {
  auto parsed = std::make_unique<Parsed>();
  GANTRY_ASSIGN_OR_RETURN(parsed->body, jinja::Parse(source));
  auto result = std::unique_ptr<ChatTemplate>(new ChatTemplate());
  result->parsed_ = std::move(parsed);
  return result;
}

absl::StatusOr<std::vector<Segment>> ChatTemplate::Render(const Input& input) const {
  using jinja::Value;
  jinja::Dict context;
  const auto set = [&](const char* name, Value value) {
    context.emplace_back(Value::String(name, true), std::move(value));
  };
  if (input.variables != nullptr) {
    for (const auto& [name, value] : input.variables->items()) set(name.c_str(), Value::FromJson(value));
  }
  set("messages", input.messages == nullptr ? Value::MakeList({}) : Value::FromJson(*input.messages));
  set("tools", input.tools == nullptr ? Value::None() : Value::FromJson(*input.tools));
  set("add_generation_prompt", Value::Bool(input.add_generation_prompt));
  set("bos_token", Value::String(input.bos_token, true));
  set("eos_token", Value::String(input.eos_token, true));
  GANTRY_ASSIGN_OR_RETURN(const jinja::Text text, jinja::Render(parsed_->body, context, jinja::Limits{}));
  std::vector<Segment> segments;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin + 1;
    while (end < text.size() && text.trusted(end) == text.trusted(begin)) ++end;
    segments.push_back(Segment{text.bytes().substr(begin, end - begin), text.trusted(begin)});
    begin = end;
  }
  return segments;
}

absl::StatusOr<std::string> ReadChatTemplateSource(const std::string& model_directory) {
  constexpr size_t kBytesMax = 16 << 20;
  absl::StatusOr<std::string> file = ReadSmallFile(model_directory + "/chat_template.jinja", kBytesMax);
  if (file.ok()) return file;
  const std::string config_path = model_directory + "/tokenizer_config.json";
  GANTRY_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(config_path, kBytesMax));
  const auto config = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object() || !config.contains("chat_template") || !config["chat_template"].is_string()) {
    return absl::NotFoundError(
        absl::StrCat(model_directory, ": neither chat_template.jinja nor a `chat_template` in tokenizer_config.json"));
  }
  return config["chat_template"].get<std::string>();
}

std::string JoinSegments(const std::vector<Segment>& segments) {
  std::string text;
  for (const Segment& segment : segments) text += segment.text;
  return text;
}

}  // namespace gantry::engine::text
