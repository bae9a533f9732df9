#include "gateway/api/api_server.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gateway/api/api_error.h"
#include "gateway/api/client_address.h"
#include "gateway/api/completion.h"
#include "gateway/api/refusal.h"

namespace gantry::gateway {

namespace asio = boost::asio;

namespace {

enum class Route { kChat, kCompletions, kModels, kModel, kHealth, kUnknown };

constexpr absl::string_view kModelPrefix = "/v1/models/";

struct RouteInfo {
  Route route;
  const char* method;
};

RouteInfo FindRoute(absl::string_view path) {
  if (path == "/v1/chat/completions") return {Route::kChat, "POST"};
  if (path == "/v1/completions") return {Route::kCompletions, "POST"};
  if (path == "/v1/models") return {Route::kModels, "GET"};
  if (absl::StartsWith(path, kModelPrefix) && path.size() > kModelPrefix.size()) return {Route::kModel, "GET"};
  if (path == "/healthz") return {Route::kHealth, "GET"};
  return {Route::kUnknown, ""};
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string PercentDecode(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && HexDigit(text[i + 1]) >= 0 && HexDigit(text[i + 2]) >= 0) {
      out.push_back(static_cast<char>(HexDigit(text[i + 1]) * 16 + HexDigit(text[i + 2])));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

// Bearer, or the header that Anthropic's clients use.
absl::string_view Credential(const HttpRequest& request) {
  absl::string_view authorization = request.Header("authorization");
  if (absl::StartsWithIgnoreCase(authorization, "bearer ")) {
    return absl::StripAsciiWhitespace(authorization.substr(7));
  }
  return request.Header("x-api-key");
}

std::variant<std::shared_ptr<const KeyInfo>, ApiError> Authenticate(const ApiContext& context,
                                                                    const HttpRequest& request) {
  absl::string_view credential = Credential(request);
  if (credential.empty()) {
    return InvalidApiKey("You did not provide an API key. Send it in the header: Authorization: Bearer YOUR_KEY.");
  }
  auto result = context.admission->Authenticate(credential);
  if (auto* refusal = std::get_if<Refusal>(&result)) {
    context.metrics->Refused(RefusalName(refusal->reason));
    return RefusalError(*refusal, "");
  }
  auto key = std::get<std::shared_ptr<const KeyInfo>>(std::move(result));
  auto may = context.admission->MayCall(*key, "inference", ClientAddress(request, context.options.trusted_proxies));
  if (auto* refusal = std::get_if<Refusal>(&may)) {
    context.metrics->Refused(RefusalName(refusal->reason));
    return RefusalError(*refusal, "");
  }
  return key;
}

std::string ModelJson(const Model& model) {
  return absl::StrCat("{\"id\":", JsonString(model.card.name()),
                      ",\"object\":\"model\",\"created\":", model.card.created_us() / 1'000'000,
                      ",\"owned_by\":\"gantry\",\"max_model_len\":", model.card.context_tokens(), "}");
}

}  // namespace

HttpReply ApiServer::TransportError(int status, absl::string_view message) {
  ApiError error;
  error.status = status;
  error.message = std::string(message);
  if (status >= 500) {
    error.type = "server_error";
    error.code = status == 503 ? "server_is_overloaded" : "internal_error";
  } else {
    error.code = status == 413   ? "request_too_large"
                 : status == 431 ? "headers_too_large"
                 : status == 408 ? "request_timeout"
                                 : "invalid_http";
  }
  if (status == 503) error.headers = {{"retry-after-ms", "500"}, {"retry-after", "1"}, {"x-should-retry", "true"}};
  context_->metrics->Request("", status);
  return ErrorReply(error);
}

std::optional<HttpReply> ApiServer::CheckHead(const HttpRequest& head) {
  auto refuse = [&](const ApiError& error) {
    context_->metrics->Request("", error.status);
    return ErrorReply(error);
  };
  const RouteInfo info = FindRoute(head.path);
  if (info.route == Route::kUnknown) {
    ApiError error =
        InvalidRequest(absl::StrCat("Invalid URL (", head.method.substr(0, 16), " ", head.path.substr(0, 256), ")."),
                       "", "unknown_url");
    error.status = 404;
    return refuse(error);
  }
  if (head.method != info.method && !(head.method == "HEAD" && info.route == Route::kHealth)) {
    ApiError error = InvalidRequest(absl::StrCat("Not allowed to ", head.method.substr(0, 16), " ",
                                                 head.path.substr(0, 256), "; use ", info.method, "."),
                                    "", "method_not_allowed");
    error.status = 405;
    error.headers = {{"allow", info.method}};
    return refuse(error);
  }
  if (info.route == Route::kHealth) return std::nullopt;
  absl::string_view client_id = head.Header("x-client-request-id");
  if (client_id.size() > 512 || !std::all_of(client_id.begin(), client_id.end(), [](char c) {
        return absl::ascii_isprint(static_cast<unsigned char>(c));
      })) {
    return refuse(InvalidRequest("X-Client-Request-Id must be at most 512 printable ASCII characters.", "",
                                 "invalid_client_request_id"));
  }
  auto key = Authenticate(*context_, head);
  if (auto* error = std::get_if<ApiError>(&key)) return refuse(*error);
  if (info.route == Route::kChat || info.route == Route::kCompletions) {
    absl::string_view type = head.Header("content-type");
    absl::string_view media = absl::StripAsciiWhitespace(type.substr(0, type.find(';')));
    // What curl says when nobody tells it otherwise; the body is read as JSON all the same.
    const bool json = media.empty() || absl::EqualsIgnoreCase(media, "application/json") ||
                      absl::EqualsIgnoreCase(media, "application/x-www-form-urlencoded");
    if (!json) {
      ApiError error = InvalidRequest(
          absl::StrCat("Unsupported content type \"", media.substr(0, 128), "\": send application/json."), "",
          "unsupported_content_type");
      error.status = 415;
      return refuse(error);
    }
    if (context_->draining.load()) return refuse(Unavailable("The gateway is stopping.", "service_unavailable"));
  }
  return std::nullopt;
}

HttpReply ApiServer::HealthReply() const {
  HttpReply reply;
  if (context_->draining.load()) {
    reply.status = 503;
    reply.body = R"({"status":"draining"})";
  } else if (context_->ready && !context_->ready()) {
    reply.status = 503;
    reply.body = R"({"status":"starting"})";
  } else {
    reply.body = R"({"status":"ok"})";
  }
  return reply;
}

HttpReply ApiServer::ModelListReply(const KeyInfo& key) const {
  HttpReply reply;
  reply.body = R"({"object":"list","data":[)";
  bool first = true;
  for (const auto& model : context_->models->List()) {
    if (!key.MayUseModel(model->card.name())) continue;
    absl::StrAppend(&reply.body, first ? "" : ",", ModelJson(*model));
    first = false;
  }
  reply.body += "]}";
  return reply;
}

HttpReply ApiServer::ModelReply(const KeyInfo& key, absl::string_view name) const {
  const std::shared_ptr<const Model> model = context_->models->Find(std::string(name));
  if (model == nullptr || !key.MayUseModel(name)) return ErrorReply(ModelNotFound(name));
  HttpReply reply;
  reply.body = ModelJson(*model);
  return reply;
}

asio::awaitable<void> ApiServer::Handle(HttpRequest request, HttpExchange& exchange) {
  const RouteInfo info = FindRoute(request.path);
  HttpReply reply;
  if (info.route == Route::kHealth) {
    reply = HealthReply();
    co_await exchange.Send(std::move(reply));
    co_return;
  }
  // Again: a body takes time to arrive, and a key may go meanwhile.
  auto authenticated = Authenticate(*context_, request);
  if (auto* error = std::get_if<ApiError>(&authenticated)) {
    reply = ErrorReply(*error);
  } else {
    auto key = std::get<std::shared_ptr<const KeyInfo>>(std::move(authenticated));
    if (info.route == Route::kChat || info.route == Route::kCompletions) {
      co_await RunCompletion(context_, std::move(request), exchange, std::move(key), info.route == Route::kChat);
      co_return;
    }
    reply = info.route == Route::kModels ? ModelListReply(*key)
                                         : ModelReply(*key, PercentDecode(request.path.substr(kModelPrefix.size())));
  }
  context_->metrics->Request("", reply.status);
  co_await exchange.Send(std::move(reply));
}

}  // namespace gantry::gateway
