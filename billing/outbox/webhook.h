// Sends one webhook (R17): the name is resolved once, the addresses are looked at, and what was looked at is what is
// called. No redirects are followed, TLS is verified, the answer is bounded, everything ends by one deadline.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "billing/outbox/address_policy.h"
#include "billing/outbox/resolve.h"
#include "billing/outbox/sender.h"
#include "billing/outbox/stream.h"
#include "billing/outbox/target.h"

namespace gantry::billing {

struct WebhookOptions {
  std::string private_networks;  // AddressPolicy::Parse
  std::string authority_file;    // PEM of further certificate authorities
  absl::Duration timeout = absl::Seconds(10);
  Resolver resolve = ResolveHost;
};

struct WebhookRequest {
  std::vector<std::pair<std::string, std::string>> headers;  // beyond Host, Content-Type and the like
  std::string body;                                          // JSON
};

// Thread-safe.
class WebhookSender {
 public:
  // INVALID_ARGUMENT names the option.
  static absl::StatusOr<std::unique_ptr<WebhookSender>> Create(const WebhookOptions& options);

  // OK for an answer 2xx. An address that may not be called is no permanent failure: names move.
  SendResult Send(const WebhookTarget& target, const WebhookRequest& request, StreamStop* stop) const;

 private:
  WebhookSender(WebhookOptions options, AddressPolicy policy, std::unique_ptr<ClientTls> tls)
      : options_(std::move(options)), policy_(std::move(policy)), tls_(std::move(tls)) {}
  absl::Status TrySend(const WebhookTarget& target, const WebhookRequest& request, StreamStop* stop) const;

  const WebhookOptions options_;
  const AddressPolicy policy_;
  const std::unique_ptr<ClientTls> tls_;
};

}  // namespace gantry::billing
