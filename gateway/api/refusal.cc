#include "gateway/api/refusal.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace gantry::gateway {
namespace {

// "1s", "6m0s", "120ms": as Go prints durations, which is what OpenAI's headers hold.
std::string GoDuration(absl::Duration duration) {
  const int64_t ms = absl::ToInt64Milliseconds(duration);
  if (ms < 1000) return absl::StrCat(std::max<int64_t>(0, ms), "ms");
  std::string out;
  const int64_t minutes = ms / 60'000;
  if (minutes > 0) absl::StrAppend(&out, minutes, "m");
  absl::StrAppend(&out, (ms % 60'000) / 1000);
  if (const int64_t rest = ms % 1000; rest != 0) {
    std::string digits = absl::StrCat(1000 + rest).substr(1);
    while (digits.back() == '0') digits.pop_back();
    absl::StrAppend(&out, ".", digits);
  }
  return out + "s";
}

ApiError Forbidden(std::string message, std::string code) {
  ApiError error = InvalidRequest(std::move(message), "", std::move(code));
  error.status = 403;
  return error;
}

ApiError LimitReached(const Refusal& refusal) {
  ApiError error;
  error.status = 429;
  error.message = refusal.message;
  error.type = refusal.reason == RefusalReason::kTokens ? "tokens" : "requests";
  error.code = "rate_limit_exceeded";
  AddLimitHeaders(refusal.limits, &error.headers);
  if (refusal.retry_after > absl::ZeroDuration()) {
    const int64_t ms =
        std::max<int64_t>(1, absl::ToInt64Milliseconds(absl::Ceil(refusal.retry_after, absl::Milliseconds(1))));
    error.headers.emplace_back("retry-after-ms", absl::StrCat(ms));
    error.headers.emplace_back("retry-after", absl::StrCat((ms + 999) / 1000));
    error.headers.emplace_back("x-should-retry", "true");
  } else {
    error.headers.emplace_back("x-should-retry", "false");
  }
  return error;
}

}  // namespace

void AddLimitHeaders(const LimitState& limits, HttpHeaders* headers) {
  const auto add = [&](const char* what, uint64_t limit, uint64_t used, absl::Duration reset) {
    if (limit == 0) return;
    headers->emplace_back(absl::StrCat("x-ratelimit-limit-", what), absl::StrCat(limit));
    headers->emplace_back(absl::StrCat("x-ratelimit-remaining-", what), absl::StrCat(limit - std::min(limit, used)));
    headers->emplace_back(absl::StrCat("x-ratelimit-reset-", what), GoDuration(reset));
  };
  add("requests", limits.requests_limit, limits.requests_used, limits.requests_reset);
  add("tokens", limits.tokens_limit, limits.tokens_used, limits.tokens_reset);
}

ApiError RefusalError(const Refusal& refusal, absl::string_view model) {
  switch (refusal.reason) {
    case RefusalReason::kStaleKeys:
    case RefusalReason::kBillingAway:
      return Unavailable(refusal.message, "service_unavailable",
                         static_cast<int>(absl::ToInt64Milliseconds(refusal.retry_after)));
    case RefusalReason::kInvalidKey:
    case RefusalReason::kExpiredKey:
      return InvalidApiKey(refusal.message);
    case RefusalReason::kModel:
      return ModelNotFound(model);
    case RefusalReason::kSuspended:
      return Forbidden(refusal.message, "account_inactive");
    case RefusalReason::kScope:
      return Forbidden(refusal.message, "insufficient_scope");
    case RefusalReason::kAddress:
      return Forbidden(refusal.message, "ip_not_authorized");
    case RefusalReason::kNoPrice: {
      ApiError error = Forbidden(refusal.message, "model_not_priced");
      error.param = "model";
      return error;
    }
    case RefusalReason::kKeyBudget:
    case RefusalReason::kFunds: {
      ApiError error;
      error.status = 429;
      error.message = refusal.message;
      error.type = error.code = "insufficient_quota";
      error.headers = {{"x-should-retry", "false"}};
      return error;
    }
    case RefusalReason::kRequests:
    case RefusalReason::kConcurrency:
    case RefusalReason::kTokens:
      break;
  }
  return LimitReached(refusal);
}

ApiError RouterError(const absl::Status& status, absl::string_view model) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return InvalidRequest(std::string(status.message()), "", "invalid_value");
    case absl::StatusCode::kResourceExhausted:
      return Unavailable(absl::StrCat("The model \"", model, "\" has as many requests waiting as it may have."),
                         "server_is_overloaded", 2000);
    case absl::StatusCode::kDeadlineExceeded: {
      ApiError error = ServerError("The request did not end within its time limit.", 504);
      error.code = "request_timeout";
      return error;
    }
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
      return Unavailable(absl::StrCat("The model \"", model, "\" is not available at the moment."),
                         "service_unavailable", 1000);
    default:
      return ServerError("The model could not run this request to its end.");
  }
}

}  // namespace gantry::gateway
