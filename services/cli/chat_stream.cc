#include "services/cli/chat_stream.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace gantry::cli {
namespace {

constexpr size_t kShownBytes = 200;

std::string MessageOf(const nlohmann::json& event) {
  const nlohmann::json& error = event["error"];
  return error.is_object() && error.contains("message") && error["message"].is_string()
             ? error["message"].get<std::string>()
             : error.dump();
}

}  // namespace

void ChatStream::Feed(absl::string_view bytes) {
  pending_.append(bytes.data(), bytes.size());
  size_t begin = 0;
  for (size_t end; (end = pending_.find('\n', begin)) != std::string::npos; begin = end + 1) {
    absl::string_view line = absl::string_view(pending_).substr(begin, end - begin);
    Line(absl::StripSuffix(line, "\r"));
  }
  pending_.erase(0, begin);
}

void ChatStream::Line(absl::string_view line) {
  if (!absl::ConsumePrefix(&line, "data:")) return;  // blank lines, comments, event names
  absl::ConsumePrefix(&line, " ");
  if (line == "[DONE]") {
    done_ = true;
    return;
  }
  const nlohmann::json event = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
  if (!event.is_object()) return;
  if (event.contains("error")) {
    error_ = MessageOf(event);
    return;
  }
  if (!event.contains("choices") || !event["choices"].is_array()) return;
  for (const nlohmann::json& choice : event["choices"]) {
    if (!choice.contains("delta") || !choice["delta"].is_object()) continue;
    const auto content = choice["delta"].find("content");
    if (content != choice["delta"].end() && content->is_string()) on_text_(content->get_ref<const std::string&>());
  }
}

absl::Status ChatStream::Finish() const {
  if (!error_.empty()) return absl::InternalError(error_);
  if (!done_) return absl::DataLossError("the reply broke off before its end");
  return absl::OkStatus();
}

std::string ErrorMessage(const std::string& body) {
  const nlohmann::json parsed = nlohmann::json::parse(body, nullptr, false);
  if (parsed.is_object() && parsed.contains("error")) return MessageOf(parsed);
  return body.substr(0, kShownBytes);
}

}  // namespace gantry::cli
