#include "gateway/api/api_error.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/unicode.h"

namespace gantry::gateway {

std::string JsonString(absl::string_view text) {
  std::string out;
  out.reserve(text.size() + 2);
  out.push_back('"');
  while (!text.empty()) {
    size_t valid = std::min(engine::text::FindInvalidUtf8(text), text.size());
    for (char c : text.substr(0, valid)) {
      switch (c) {
        case '"':
          out += "\\\"";
          break;
        case '\\':
          out += "\\\\";
          break;
        case '\n':
          out += "\\n";
          break;
        case '\r':
          out += "\\r";
          break;
        case '\t':
          out += "\\t";
          break;
        default:
          if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
            absl::StrAppend(&out, "\\u", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad4));
          } else {
            out.push_back(c);
          }
      }
    }
    text.remove_prefix(valid);
    if (!text.empty()) {
      out += "\xEF\xBF\xBD";
      text.remove_prefix(1);
    }
  }
  out.push_back('"');
  return out;
}

std::string ErrorJson(const ApiError& error) {
  auto or_null = [](const std::string& text) { return text.empty() ? std::string("null") : JsonString(text); };
  return absl::StrCat("{\"error\":{\"message\":", JsonString(error.message), ",\"type\":", JsonString(error.type),
                      ",\"param\":", or_null(error.param), ",\"code\":", or_null(error.code), "}}");
}

HttpReply ErrorReply(const ApiError& error) {
  HttpReply reply;
  reply.status = error.status;
  reply.headers = error.headers;
  reply.body = ErrorJson(error);
  return reply;
}

ApiError InvalidRequest(std::string message, std::string param, std::string code) {
  ApiError error;
  error.message = std::move(message);
  error.param = std::move(param);
  error.code = std::move(code);
  return error;
}

ApiError ModelNotFound(absl::string_view model) {
  ApiError error = InvalidRequest(
      absl::StrCat("The model \"", model.substr(0, 256),
                   "\" does not exist or this key may not use it. GET /v1/models ", "lists what can be asked for."),
      "model", "model_not_found");
  error.status = 404;
  return error;
}

ApiError InvalidApiKey(absl::string_view message) {
  ApiError error = InvalidRequest(std::string(message), "", "invalid_api_key");
  error.status = 401;
  error.headers = {{"www-authenticate", "Bearer"}};
  return error;
}

ApiError Unavailable(std::string message, std::string code, int retry_after_ms) {
  ApiError error;
  error.status = 503;
  error.type = "server_error";
  error.message = std::move(message);
  error.code = std::move(code);
  error.headers = {{"retry-after-ms", absl::StrCat(retry_after_ms)},
                   {"retry-after", absl::StrCat((retry_after_ms + 999) / 1000)},
                   {"x-should-retry", "true"}};
  return error;
}

ApiError ServerError(std::string message, int status) {
  ApiError error;
  error.status = status;
  error.type = "server_error";
  error.message = std::move(message);
  error.code = "internal_error";
  return error;
}

}  // namespace gantry::gateway
