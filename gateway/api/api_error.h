// What a tenant sees when something is refused: the OpenAI error object with its status and headers.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "gateway/http/message.h"

namespace gantry::gateway {

struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;  // empty: null
  std::string code;   // empty: null
  HttpHeaders headers;
};

// {"error":{"message":…,"type":…,"param":…|null,"code":…|null}}. Invalid UTF-8 in the message becomes U+FFFD.
std::string ErrorJson(const ApiError& error);
HttpReply ErrorReply(const ApiError& error);

// `"…"` with everything escaped that JSON wants escaped; invalid UTF-8 becomes U+FFFD.
std::string JsonString(absl::string_view text);

// The errors that several places give.
ApiError InvalidRequest(std::string message, std::string param, std::string code);
ApiError ModelNotFound(absl::string_view model);
ApiError InvalidApiKey(absl::string_view message);
// 503 that SDKs retry after `retry_after_ms`.
ApiError Unavailable(std::string message, std::string code, int retry_after_ms = 1000);
ApiError ServerError(std::string message, int status = 500);

}  // namespace gantry::gateway
