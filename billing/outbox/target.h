// Where a message goes: a mailbox (mailto:ops@acme.example) or a webhook (https://acme.example/hooks/gantry).
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gantry::billing {

struct MailTarget {
  std::string address;
};

struct WebhookTarget {
  bool tls = true;
  std::string host;  // a name, or an address without brackets
  uint16_t port = 443;
  std::string authority;  // for the Host header
  std::string path;       // with its query, from the first '/'
};

using Target = std::variant<MailTarget, WebhookTarget>;

// INVALID_ARGUMENT says what is not as it must be. No user names, fragments, blanks or characters beyond ASCII in URLs
// (an international name is written as xn--…); at most 2,000 bytes.
absl::StatusOr<Target> ParseTarget(absl::string_view text);

// What may stand between < and > in SMTP: one dot-atom, '@', a domain of at least two labels. No quoting, no comments,
// nothing that could end a line.
absl::Status CheckMailAddress(absl::string_view address);

}  // namespace gantry::billing
