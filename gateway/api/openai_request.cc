#include "gateway/api/openai_request.h"

#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace gantry::gateway {
namespace {

constexpr size_t kMaxTextBytes = 16 << 20;
constexpr int64_t kMaxTokenCount = std::numeric_limits<int32_t>::max();

void ReadStop(const Json& body, FieldReader& reader, CompletionRequest* out) {
  const Json* stop = reader.Find("stop");
  if (stop == nullptr) return;
  auto add = [&](const Json& item, const std::string& key) {
    if (!item.is_string()) return reader.WrongType(key, "a string", item);
    const std::string& text = item.get_ref<const std::string&>();
    if (text.empty()) return reader.WrongValue(key, "expected a string that is not empty.");
    if (text.size() > kMaxStopBytes) {
      return reader.WrongValue(
          key, absl::StrCat("expected at most ", kMaxStopBytes, " bytes, but got ", text.size(), " instead."),
          "string_above_max_length");
    }
    out->stop.push_back(text);
  };
  if (stop->is_string()) {
    add(*stop, "stop");
  } else if (!stop->is_array()) {
    reader.WrongType("stop", "a string or an array of strings", *stop);
  } else if (reader.Array("stop", kMaxStops) != nullptr) {
    for (size_t i = 0; i < stop->size() && reader.ok(); ++i) add((*stop)[i], absl::StrCat("stop[", i, "]"));
  }
  (void)body;
}

void ReadLogitBias(FieldReader& reader, CompletionRequest* out) {
  const Json* bias = reader.Object("logit_bias");
  if (bias == nullptr) return;
  if (bias->size() > 300) {
    return reader.WrongValue("logit_bias", "expected at most 300 entries.", "object_above_max_properties");
  }
  for (const auto& [key, value] : bias->items()) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(key, &id)) {
      return reader.WrongValue("logit_bias",
                               absl::StrCat("expected token ids as keys, but got ", JsonString(key), "."));
    }
    if (!value.is_number()) return reader.WrongType(absl::StrCat("logit_bias.", id), "a number", value);
    double number = value.get<double>();
    if (!(number >= -100 && number <= 100)) {
      return reader.WrongValue(absl::StrCat("logit_bias.", id),
                               absl::StrCat("expected a number from -100 to 100, but got ", number, " instead."));
    }
    out->logit_bias.emplace_back(id, static_cast<float>(number));
  }
}

// Ids of an array; the caller knows that it is one.
void ReadIds(const Json& array, const std::string& key, FieldReader& reader, std::vector<uint32_t>* ids) {
  ids->reserve(array.size());
  for (size_t i = 0; i < array.size(); ++i) {
    const Json& item = array[i];
    if (!item.is_number_unsigned() && !item.is_number_integer()) {
      return reader.WrongType(absl::StrCat(key, "[", i, "]"), "a token id", item);
    }
    int64_t id = item.is_number_unsigned() && item.get<uint64_t>() > INT32_MAX ? -1 : item.get<int64_t>();
    if (id < 0 || id > INT32_MAX) return reader.WrongValue(absl::StrCat(key, "[", i, "]"), "expected a token id.");
    ids->push_back(static_cast<uint32_t>(id));
  }
}

void ReadCommon(const Json& body, FieldReader& reader, CompletionRequest* out) {
  std::optional<std::string> model = reader.String("model", 256);
  if (!model.has_value() || model->empty()) reader.Missing("model");
  if (model.has_value()) out->model = *std::move(model);
  out->n = static_cast<int>(reader.Integer("n", 1, kMaxChoices).value_or(1));
  out->stream = reader.Bool("stream").value_or(false);
  if (const Json* options = reader.Object("stream_options")) {
    if (!out->stream) reader.WrongValue("stream_options", "it is only allowed when 'stream' is true.");
    std::optional<ApiError> error;
    FieldReader inner(*options, "stream_options", &error);
    out->include_usage = inner.Bool("include_usage").value_or(false);
    if (error) reader.WrongType("stream_options.include_usage", "a boolean", *options->find("include_usage"));
  }
  std::optional<int64_t> max_tokens = reader.Integer("max_tokens", 1, kMaxTokenCount);
  std::optional<int64_t> max_completion_tokens = reader.Integer("max_completion_tokens", 1, kMaxTokenCount);
  out->max_tokens = max_completion_tokens.has_value() ? max_completion_tokens : max_tokens;
  out->min_tokens = reader.Integer("min_tokens", 0, kMaxTokenCount).value_or(0);
  if (out->max_tokens.has_value() && out->min_tokens > *out->max_tokens) {
    reader.WrongValue("min_tokens", "it is larger than 'max_tokens'.");
  }
  out->temperature = reader.Number("temperature", 0, 2);
  out->top_p = reader.Number("top_p", 0, 1);
  out->top_k = reader.Integer("top_k", -1, kMaxTokenCount);
  if (out->top_k == -1) out->top_k = 0;
  out->min_p = reader.Number("min_p", 0, 1).value_or(0);
  out->presence_penalty = reader.Number("presence_penalty", -2, 2).value_or(0);
  out->frequency_penalty = reader.Number("frequency_penalty", -2, 2).value_or(0);
  out->repetition_penalty = reader.Number("repetition_penalty", 0.01, 10).value_or(1);
  if (std::optional<int64_t> seed = reader.Integer("seed", INT64_MIN, INT64_MAX)) {
    out->seed = static_cast<uint64_t>(*seed);
  }
  ReadLogitBias(reader, out);
  ReadStop(body, reader, out);
  if (const Json* ids = reader.Array("stop_token_ids", 32))
    ReadIds(*ids, "stop_token_ids", reader, &out->stop_token_ids);
  out->ignore_eos = reader.Bool("ignore_eos").value_or(false);
  out->return_token_ids = reader.Bool("return_token_ids").value_or(false);
}

// ---- chat ----

// Content as one string: a string, or an array of text parts put together.
void ReadContent(const Json& message, FieldReader& reader, Json* out) {
  const Json* content = reader.Find("content");
  if (content == nullptr) {
    (*out)["content"] = nullptr;
    return;
  }
  if (content->is_string()) {
    (*out)["content"] = *content;
    return;
  }
  if (!content->is_array()) return reader.WrongType("content", "a string or an array of parts", *content);
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    const Json& part = (*content)[i];
    std::string key = absl::StrCat("content[", i, "]");
    if (!part.is_object()) return reader.WrongType(key, "an object", part);
    auto type = part.find("type");
    if (type == part.end() || !type->is_string()) return reader.Missing(key + ".type");
    const std::string& kind = type->get_ref<const std::string&>();
    if (kind == "refusal") continue;
    if (kind != "text") {
      return reader.WrongValue(key + ".type",
                               absl::StrCat("this model reads parts of type \"text\" only, but got ",
                                            JsonString(absl::string_view(kind).substr(0, 64)), " instead."),
                               "unsupported_value");
    }
    auto piece = part.find("text");
    if (piece == part.end()) return reader.Missing(key + ".text");
    if (!piece->is_string()) return reader.WrongType(key + ".text", "a string", *piece);
    text += piece->get_ref<const std::string&>();
  }
  (*out)["content"] = std::move(text);
  (void)message;
}

void ReadToolCalls(FieldReader& reader, Json* out) {
  const Json* calls = reader.Array("tool_calls", kMaxTools);
  if (calls == nullptr || calls->empty()) return;
  Json result = Json::array();
  for (size_t i = 0; i < calls->size(); ++i) {
    const Json& call = (*calls)[i];
    std::string key = absl::StrCat("tool_calls[", i, "]");
    if (!call.is_object()) return reader.WrongType(key, "an object", call);
    auto function = call.find("function");
    if (function == call.end()) return reader.Missing(key + ".function");
    if (!function->is_object()) return reader.WrongType(key + ".function", "an object", *function);
    auto name = function->find("name");
    if (name == function->end()) return reader.Missing(key + ".function.name");
    if (!name->is_string()) return reader.WrongType(key + ".function.name", "a string", *name);
    Json arguments = Json::object();
    if (auto given = function->find("arguments"); given != function->end() && !given->is_null()) {
      if (given->is_object()) {
        arguments = *given;
      } else if (!given->is_string()) {
        return reader.WrongType(key + ".function.arguments", "a string", *given);
      } else if (const std::string& text = given->get_ref<const std::string&>(); !text.empty()) {
        auto parsed = ParseJsonObject(text);
        if (std::holds_alternative<ApiError>(parsed)) {
          return reader.WrongValue(key + ".function.arguments", "expected the text of a JSON object.");
        }
        arguments = std::get<Json>(std::move(parsed));
      }
    }
    Json item = Json::object();
    if (auto id = call.find("id"); id != call.end() && id->is_string()) item["id"] = *id;
    item["type"] = "function";
    item["function"] = {{"name", *name}, {"arguments", std::move(arguments)}};
    result.push_back(std::move(item));
  }
  (*out)["tool_calls"] = std::move(result);
}

void ReadMessage(const Json& message, size_t index, std::optional<ApiError>* error, Json* messages) {
  FieldReader reader(message, absl::StrCat("messages[", index, "]"), error);
  std::optional<std::string> role = reader.String("role", 32);
  if (!role.has_value()) return reader.Missing("role");
  const bool known =
      *role == "system" || *role == "developer" || *role == "user" || *role == "assistant" || *role == "tool";
  if (!known) {
    return reader.WrongValue(
        "role", absl::StrCat("expected one of \"system\", \"developer\", \"user\", \"assistant\", \"tool\", ",
                             "but got ", JsonString(*role), " instead."));
  }
  Json out = Json::object();
  out["role"] = *role == "developer" ? "system" : *role;
  ReadContent(message, reader, &out);
  if (*role == "assistant") {
    ReadToolCalls(reader, &out);
    if (auto reasoning = reader.String("reasoning_content", kMaxTextBytes)) out["reasoning_content"] = *reasoning;
    if (out["content"].is_null() && reader.ok()) out["content"] = "";
  } else if (out.value("content", Json()).is_null()) {
    reader.Missing("content");
  }
  if (auto id = reader.String("tool_call_id", 256)) out["tool_call_id"] = *id;
  if (auto name = reader.String("name", 256)) out["name"] = *name;
  if (reader.ok()) messages->push_back(std::move(out));
}

void ReadMessages(FieldReader& reader, std::optional<ApiError>* error, CompletionRequest* out) {
  const Json* messages = reader.Array("messages", kMaxMessages);
  if (messages == nullptr) return reader.Missing("messages");
  if (messages->empty()) {
    return reader.WrongValue("messages", "expected at least one message, but got an empty array instead.",
                             "empty_array");
  }
  for (size_t i = 0; i < messages->size() && reader.ok(); ++i) {
    const Json& message = (*messages)[i];
    if (!message.is_object()) return reader.WrongType(absl::StrCat("messages[", i, "]"), "an object", message);
    ReadMessage(message, i, error, &out->messages);
  }
}

void ReadTools(FieldReader& reader, CompletionRequest* out) {
  for (const char* legacy : {"functions", "function_call"}) {
    if (reader.Find(legacy) != nullptr) {
      return reader.WrongValue(legacy, "it is not supported, use 'tools' instead.", "unsupported_parameter");
    }
  }
  const Json* tools = reader.Array("tools", kMaxTools);
  if (tools != nullptr) {
    for (size_t i = 0; i < tools->size(); ++i) {
      const Json& tool = (*tools)[i];
      std::string key = absl::StrCat("tools[", i, "]");
      if (!tool.is_object()) return reader.WrongType(key, "an object", tool);
      if (tool.value("type", Json("function")) != Json("function")) {
        return reader.WrongValue(key + ".type", "expected \"function\".", "unsupported_value");
      }
      auto function = tool.find("function");
      if (function == tool.end()) return reader.Missing(key + ".function");
      if (!function->is_object()) return reader.WrongType(key + ".function", "an object", *function);
      auto name = function->find("name");
      if (name == function->end()) return reader.Missing(key + ".function.name");
      if (!name->is_string()) return reader.WrongType(key + ".function.name", "a string", *name);
      const std::string& text = name->get_ref<const std::string&>();
      if (text.empty() || text.size() > 64) {
        return reader.WrongValue(key + ".function.name", "expected 1 to 64 characters.");
      }
      auto parameters = function->find("parameters");
      if (parameters != function->end() && !parameters->is_null() && !parameters->is_object()) {
        return reader.WrongType(key + ".function.parameters", "an object", *parameters);
      }
    }
  }
  bool allowed = true;
  if (const Json* choice = reader.Find("tool_choice")) {
    if (!choice->is_string() && !choice->is_object()) {
      return reader.WrongType("tool_choice", "a string or an object", *choice);
    }
    if (*choice == Json("none")) {
      allowed = false;
    } else if (*choice != Json("auto")) {
      return reader.WrongValue("tool_choice", "this model supports \"auto\" and \"none\".", "unsupported_value");
    }
  }
  if (tools != nullptr && !tools->empty() && allowed) {
    out->tools = *tools;
    out->parse_tools = true;
  }
}

void ReadResponseFormat(FieldReader& reader) {
  const Json* format = reader.Object("response_format");
  if (format == nullptr) return;
  auto type = format->find("type");
  if (type == format->end()) return reader.Missing("response_format.type");
  if (!type->is_string()) return reader.WrongType("response_format.type", "a string", *type);
  if (*type != Json("text")) {
    reader.WrongValue(
        "response_format.type",
        absl::StrCat("this model supports \"text\" only, but got ",
                     JsonString(absl::string_view(type->get_ref<const std::string&>()).substr(0, 64)), " instead."),
        "unsupported_value");
  }
}

void ReadVariables(FieldReader& reader, CompletionRequest* out) {
  out->variables = Json::object();
  if (const Json* kwargs = reader.Object("chat_template_kwargs")) {
    for (const auto& [key, value] : kwargs->items()) {
      // What the gateway itself decides stays decided.
      if (key == "messages" || key == "tools" || key == "add_generation_prompt" || key == "bos_token" ||
          key == "eos_token") {
        continue;
      }
      if (key == "enable_thinking" && !value.is_boolean()) {
        return reader.WrongType("chat_template_kwargs.enable_thinking", "a boolean", value);
      }
      out->variables[key] = value;
    }
  }
  std::optional<std::string> effort = reader.String("reasoning_effort", 32);
  if (!effort.has_value()) return;
  if (*effort != "none" && *effort != "minimal" && *effort != "low" && *effort != "medium" && *effort != "high" &&
      *effort != "xhigh") {
    return reader.WrongValue("reasoning_effort",
                             "expected one of \"none\", \"minimal\", \"low\", \"medium\", \"high\", \"xhigh\".");
  }
  if (!out->variables.contains("enable_thinking")) {
    out->variables["enable_thinking"] = *effort != "none" && *effort != "minimal";
  }
}

// ---- completions ----

void ReadPrompts(FieldReader& reader, CompletionRequest* out) {
  const Json* prompt = reader.Find("prompt");
  if (prompt == nullptr) return reader.Missing("prompt");
  auto add_text = [&](const Json& item, const std::string& key) {
    if (item.get_ref<const std::string&>().empty()) {
      return reader.WrongValue(key, "expected a prompt that is not empty.");
    }
    out->prompts.emplace_back(item.get<std::string>());
  };
  auto add_ids = [&](const Json& item, const std::string& key) {
    std::vector<uint32_t> ids;
    ReadIds(item, key, reader, &ids);
    if (reader.ok()) out->prompts.emplace_back(std::move(ids));
  };
  if (prompt->is_string()) return add_text(*prompt, "prompt");
  if (!prompt->is_array()) {
    return reader.WrongType("prompt", "a string, an array of strings, an array of token ids or an array of such arrays",
                            *prompt);
  }
  if (prompt->empty()) return reader.WrongValue("prompt", "expected a prompt that is not empty.", "empty_array");
  if (prompt->front().is_number()) return add_ids(*prompt, "prompt");
  if (prompt->size() > kMaxPrompts) {
    return reader.WrongValue(
        "prompt", absl::StrCat("expected at most ", kMaxPrompts, " prompts, but got ", prompt->size(), " instead."),
        "array_above_max_length");
  }
  for (size_t i = 0; i < prompt->size() && reader.ok(); ++i) {
    const Json& item = (*prompt)[i];
    std::string key = absl::StrCat("prompt[", i, "]");
    if (item.is_string()) {
      add_text(item, key);
    } else if (item.is_array() && !item.empty()) {
      add_ids(item, key);
    } else {
      reader.WrongType(key, "a string or an array of token ids", item);
    }
  }
}

}  // namespace

std::variant<CompletionRequest, ApiError> ParseChatRequest(absl::string_view text) {
  auto parsed = ParseJsonObject(text);
  if (auto* error = std::get_if<ApiError>(&parsed)) return std::move(*error);
  const Json& body = std::get<Json>(parsed);
  std::optional<ApiError> error;
  FieldReader reader(body, "", &error);
  CompletionRequest out;
  out.chat = true;
  ReadCommon(body, reader, &out);
  ReadMessages(reader, &error, &out);
  ReadTools(reader, &out);
  ReadResponseFormat(reader);
  ReadVariables(reader, &out);
  out.logprobs = reader.Bool("logprobs").value_or(false);
  out.top_logprobs = static_cast<int>(reader.Integer("top_logprobs", 0, 20).value_or(0));
  if (out.top_logprobs > 0 && !out.logprobs) reader.WrongValue("top_logprobs", "it needs 'logprobs' to be true.");
  if (error) return *std::move(error);
  return out;
}

std::variant<CompletionRequest, ApiError> ParseCompletionsRequest(absl::string_view text) {
  auto parsed = ParseJsonObject(text);
  if (auto* error = std::get_if<ApiError>(&parsed)) return std::move(*error);
  const Json& body = std::get<Json>(parsed);
  std::optional<ApiError> error;
  FieldReader reader(body, "", &error);
  CompletionRequest out;
  out.chat = false;
  out.variables = Json::object();
  ReadCommon(body, reader, &out);
  ReadPrompts(reader, &out);
  if (!out.max_tokens.has_value()) out.max_tokens = 16;  // OpenAI's default of this route
  if (out.min_tokens > *out.max_tokens) reader.WrongValue("min_tokens", "it is larger than 'max_tokens'.");
  if (std::optional<int64_t> logprobs = reader.Integer("logprobs", 0, 20)) {
    out.logprobs = true;
    out.top_logprobs = static_cast<int>(*logprobs);
  }
  if (reader.Bool("echo").value_or(false)) reader.WrongValue("echo", "it is not supported.", "unsupported_value");
  if (reader.Integer("best_of", 1, kMaxChoices).value_or(out.n) != out.n) {
    reader.WrongValue("best_of", "it must equal 'n'.", "unsupported_value");
  }
  if (const Json* suffix = reader.Find("suffix"); suffix != nullptr && *suffix != Json("")) {
    reader.WrongValue("suffix", "it is not supported.", "unsupported_parameter");
  }
  if (error) return *std::move(error);
  return out;
}

}  // namespace gantry::gateway
