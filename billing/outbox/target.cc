#include "billing/outbox/target.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr size_t kUrlLimit = 2000, kLocalPartLimit = 64, kNameLimit = 253, kLabelLimit = 63;

bool IsAlnum(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c));
}

// Letters, digits and inner hyphens, in labels between dots. Numbers alone are let through: whatever a name resolves to
// is looked at when it is called.
bool IsHostName(absl::string_view name) {
  if (name.empty() || name.size() > kNameLimit) return false;
  for (const absl::string_view label : absl::StrSplit(name, '.')) {
    if (label.empty() || label.size() > kLabelLimit || label.front() == '-' || label.back() == '-') return false;
    if (!std::all_of(label.begin(), label.end(), [](char c) { return IsAlnum(c) || c == '-'; })) return false;
  }
  return true;
}

bool IsIpv6Text(absl::string_view text) {
  return text.find(':') != absl::string_view::npos && text.size() <= 45 &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isxdigit(static_cast<unsigned char>(c)) || c == ':' || c == '.';
         });
}

absl::Status Malformed(absl::string_view reason) {
  return absl::InvalidArgumentError(
      absl::StrCat("target: ", reason, "; expected https://host/path or mailto:name@domain"));
}

absl::StatusOr<Target> ParseWebhook(absl::string_view rest, bool tls) {
  for (const char c : rest) {
    if (c <= ' ' || c > '~' || c == '"' || c == '<' || c == '>' || c == '\\' || c == '^' || c == '`' || c == '{' ||
        c == '|' || c == '}') {
      return Malformed("the URL holds a character that must be written as %XX");
    }
  }
  if (rest.find('#') != absl::string_view::npos) return Malformed("a URL that is called has no fragment (#…)");
  const size_t path_at = rest.find_first_of("/?");
  absl::string_view authority = rest.substr(0, path_at);
  if (authority.find('@') != absl::string_view::npos) {
    return Malformed("user names and passwords do not belong into the URL; the signature proves the sender");
  }
  WebhookTarget target;
  target.tls = tls;
  target.port = tls ? 443 : 80;
  target.authority = std::string(authority);
  target.path = path_at == absl::string_view::npos ? "/" : std::string(rest.substr(path_at));
  if (target.path.front() == '?') target.path.insert(0, "/");
  absl::string_view host = authority, port;
  bool has_port = false;
  if (absl::ConsumePrefix(&host, "[")) {
    const size_t end = host.find(']');
    if (end == absl::string_view::npos) return Malformed("[ without ]");
    port = host.substr(end + 1);
    host = host.substr(0, end);
    if (!IsIpv6Text(host)) return Malformed("between [ and ] stands an IPv6 address");
    has_port = absl::ConsumePrefix(&port, ":");
    if (!has_port && !port.empty()) return Malformed("after ] comes a port");
  } else {
    const size_t colon = host.find(':');
    has_port = colon != absl::string_view::npos;
    if (has_port) port = host.substr(colon + 1);
    host = host.substr(0, colon);
    if (!IsHostName(host)) return Malformed(absl::StrCat("`", host, "` is no host name"));
  }
  if (has_port) {
    uint32_t number = 0;
    if (!absl::SimpleAtoi(port, &number) || number == 0 || number > 65535 || absl::StrCat(number) != port) {
      return Malformed(absl::StrCat("`", port, "` is no port"));
    }
    target.port = static_cast<uint16_t>(number);
  }
  target.host = absl::AsciiStrToLower(host);
  return Target(std::move(target));
}

}  // namespace

absl::StatusOr<Target> ParseTarget(absl::string_view text) {
  if (text.size() > kUrlLimit) return Malformed(absl::StrCat("longer than ", kUrlLimit, " bytes"));
  if (absl::ConsumePrefix(&text, "mailto:")) {
    GANTRY_RETURN_IF_ERROR(CheckMailAddress(text));
    return Target(MailTarget{std::string(text)});
  }
  if (absl::ConsumePrefix(&text, "https://")) return ParseWebhook(text, true);
  if (absl::ConsumePrefix(&text, "http://")) return ParseWebhook(text, false);
  return Malformed("neither https:// nor mailto:");
}

absl::Status CheckMailAddress(absl::string_view address) {
  const auto bad = [&](absl::string_view reason) {
    return absl::InvalidArgumentError(
        absl::StrCat("mail address: ", reason, "; expected name@domain in plain ASCII (a domain as xn--…)"));
  };
  for (const char c : address) {
    if (c <= ' ' || c > '~') return bad("it holds a blank, a control character or one beyond ASCII");
  }
  const size_t at = address.find('@');
  if (at == absl::string_view::npos) return bad("no @");
  const absl::string_view local = address.substr(0, at), domain = address.substr(at + 1);
  constexpr absl::string_view kAtomSpecials = "!#$%&'*+-/=?^_`{|}~";
  if (local.empty() || local.size() > kLocalPartLimit) return bad("1 to 64 characters before the @");
  for (const absl::string_view atom : absl::StrSplit(local, '.')) {
    if (atom.empty()) return bad("a dot at an end or beside another");
    for (const char c : atom) {
      if (!IsAlnum(c) && kAtomSpecials.find(c) == absl::string_view::npos) return bad("a character that needs quoting");
    }
  }
  if (!IsHostName(domain) || domain.find('.') == absl::string_view::npos) return bad("after the @ stands no domain");
  return absl::OkStatus();
}

}  // namespace gantry::billing
