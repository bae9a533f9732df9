// The public API: routes, authentication before any body is read, and what each route answers.
//
//   POST /v1/chat/completions   POST /v1/completions   GET /v1/models   GET /v1/models/{id}   GET /healthz
#pragma once

#include <optional>

#include "gateway/api/api_context.h"
#include "gateway/http/message.h"

namespace gantry::gateway {

class ApiServer final : public HttpHandler {
 public:
  // `context` outlives the server.
  explicit ApiServer(ApiContext* context) : context_(context) {}

  std::optional<HttpReply> CheckHead(const HttpRequest& head) override;
  boost::asio::awaitable<void> Handle(HttpRequest request, HttpExchange& exchange) override;
  HttpReply TransportError(int status, absl::string_view message) override;

 private:
  HttpReply HealthReply() const;
  HttpReply ModelListReply(const KeyInfo& key) const;
  HttpReply ModelReply(const KeyInfo& key, absl::string_view name) const;

  ApiContext* const context_;
};

}  // namespace gantry::gateway
