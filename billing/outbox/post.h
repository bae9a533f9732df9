// Hands one message to the sender that its target takes: mail as text for people, webhooks as signed JSON.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "billing/outbox/outbox.h"
#include "billing/outbox/sender.h"
#include "billing/outbox/smtp.h"
#include "billing/outbox/webhook.h"
#include "billing/store/clock.h"
#include "services/common/secret.h"

namespace gantry::billing {

struct PostOptions {
  SmtpOptions smtp;  // no server: mail waits until there is one, or is parked
  WebhookOptions webhook;
  Secret pepper;  // webhooks' secrets are derived from it
  Clock clock;
};
// Thread-safe.
class Post {
 public:
  // INVALID_ARGUMENT names the option.
  static absl::StatusOr<std::unique_ptr<Post>> Create(PostOptions options);
  bool sends_mail() const { return smtp_ != nullptr; }
  SendResult Send(const Delivery& delivery, StreamStop* stop) const;

 private:
  Post(PostOptions options, std::unique_ptr<SmtpSender> smtp, std::unique_ptr<WebhookSender> webhook)
      : options_(std::move(options)), smtp_(std::move(smtp)), webhook_(std::move(webhook)) {}
  SendResult SendMail(const std::string& address, const Delivery& delivery, StreamStop* stop) const;
  SendResult SendWebhook(const WebhookTarget& target, const Delivery& delivery, StreamStop* stop) const;

  const PostOptions options_;
  const std::unique_ptr<SmtpSender> smtp_;
  const std::unique_ptr<WebhookSender> webhook_;
};

}  // namespace gantry::billing
