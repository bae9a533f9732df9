#include "billing/outbox/post.h"

#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "billing/outbox/signature.h"
#include "billing/outbox/target.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

absl::StatusOr<std::unique_ptr<Post>> Post::Create(PostOptions options) {
  std::unique_ptr<SmtpSender> smtp;
  if (!options.smtp.server.empty()) {
    GANTRY_ASSIGN_OR_RETURN(smtp, SmtpSender::Create(options.smtp));
  }
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<WebhookSender> webhook, WebhookSender::Create(options.webhook));
  return std::unique_ptr<Post>(new Post(std::move(options), std::move(smtp), std::move(webhook)));
}

SendResult Post::Send(const Delivery& delivery, StreamStop* stop) const {
  const absl::StatusOr<Target> target = ParseTarget(delivery.endpoint.target);
  if (!target.ok()) return {target.status(), true};
  if (const auto* mail = std::get_if<MailTarget>(&*target)) return SendMail(mail->address, delivery, stop);
  return SendWebhook(std::get<WebhookTarget>(*target), delivery, stop);
}

SendResult Post::SendMail(const std::string& address, const Delivery& delivery, StreamStop* stop) const {
  if (smtp_ == nullptr) {
    return {absl::FailedPreconditionError("billing has no smtp-server; set one and start it again"), false};
  }
  const nlohmann::json payload = nlohmann::json::parse(delivery.row.payload, nullptr, /*allow_exceptions=*/false);
  if (!payload.is_object()) return {absl::DataLossError("the message cannot be read"), true};
  return smtp_->Send({.from = smtp_->from(),
                      .to = address,
                      .subject = payload.value("title", delivery.row.topic),
                      .body = absl::StrCat(payload.value("text", ""), "\n\n-- \n", delivery.row.topic, "\n"),
                      .message_id = delivery.row.message_id.ToHex(),
                      .time_us = delivery.row.created_us},
                     stop);
}

SendResult Post::SendWebhook(const WebhookTarget& target, const Delivery& delivery, StreamStop* stop) const {
  const int64_t now_us = options_.clock();
  const Endpoint& endpoint = delivery.endpoint;
  std::vector<NumberedSecret> secrets = {
      {endpoint.secret_number, WebhookSecret(options_.pepper, endpoint.endpoint_id, endpoint.secret_number)}};
  if (endpoint.previous_until_us > now_us) {
    const int64_t previous = endpoint.secret_number - 1;
    secrets.push_back({previous, WebhookSecret(options_.pepper, endpoint.endpoint_id, previous)});
  }
  return webhook_->Send(
      target,
      {.headers = {{"Gantry-Message-Id", delivery.row.message_id.ToHex()},
                   {"Gantry-Topic", delivery.row.topic},
                   {"Gantry-Signature", WebhookSignature(secrets, now_us / 1'000'000, delivery.row.payload)}},
       .body = delivery.row.payload},
      stop);
}

}  // namespace gantry::billing
