// Hands mails to one SMTP server (RFC 5321), with STARTTLS (RFC 3207) or TLS from the start, AUTH PLAIN or LOGIN
// (RFC 4954). One mail, one connection.
//
// Nothing is given away by accident: with STARTTLS a server that does not offer it, or whose words came before TLS
// began, gets no mail; a password is never sent without TLS.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "billing/outbox/mail.h"
#include "billing/outbox/sender.h"
#include "billing/outbox/stream.h"
#include "services/common/secret.h"

namespace gantry::billing {

struct SmtpOptions {
  std::string server;                 // host or host:port; empty: no mail
  std::string security = "starttls";  // "starttls" (port 587), "tls" (465), "none" (25)
  std::string username;               // empty: no AUTH
  Secret password;
  std::string from;                            // the mails' sender
  std::string authority_file;                  // PEM of further certificate authorities
  absl::Duration timeout = absl::Seconds(30);  // of one mail
};

// Thread-safe.
class SmtpSender {
 public:
  // INVALID_ARGUMENT names the option.
  static absl::StatusOr<std::unique_ptr<SmtpSender>> Create(SmtpOptions options);

  const std::string& from() const { return options_.from; }
  // OK once the server has taken the mail. What it refused for good (5xx to the address or the mail) is permanent.
  SendResult Send(const Mail& mail, StreamStop* stop) const;

 private:
  SmtpSender(SmtpOptions options, std::string host, uint16_t port, std::unique_ptr<ClientTls> tls)
      : options_(std::move(options)), host_(std::move(host)), port_(port), tls_(std::move(tls)) {}
  class Dialogue;

  const SmtpOptions options_;
  const std::string host_;
  const uint16_t port_;
  const std::unique_ptr<ClientTls> tls_;
};

}  // namespace gantry::billing
