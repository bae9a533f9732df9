#include "billing/outbox/smtp.h"

#include <unistd.h>

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "billing/outbox/resolve.h"
#include "billing/outbox/target.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr size_t kReplyLineLimit = 2048, kReplyLinesLimit = 100, kShownLimit = 200;

struct Reply {
  int code = 0;
  std::vector<std::string> lines;  // without code and separator
};

// A server's words as part of ours.
std::string Shown(absl::string_view text) {
  std::string out(text.substr(0, kShownLimit));
  for (char& c : out) {
    if (c < ' ' || c > '~') c = '?';
  }
  return out;
}

// Lines that begin with a dot get another one: a lone dot ends the mail.
std::string DotStuffed(absl::string_view message) {
  std::string out;
  for (const absl::string_view line : absl::StrSplit(message, "\r\n")) {
    absl::StrAppend(&out, absl::StartsWith(line, ".") ? "." : "", line, "\r\n");
  }
  out.resize(out.size() - 2);  // of what follows the last line's end
  if (!absl::EndsWith(out, "\r\n")) out += "\r\n";
  return out;
}

std::string HostName() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) return "localhost";
  for (const char* c = name; *c != '\0'; ++c) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(*c)) && *c != '-' && *c != '.') return "localhost";
  }
  return name[0] == '\0' ? "localhost" : name;
}

}  // namespace

// One connection's talk. A status of ABORTED stands for a reply that makes a further try pointless.
class SmtpSender::Dialogue {
 public:
  Dialogue(const SmtpSender& sender, StreamStop* stop)
      : sender_(sender), options_(sender.options_), stream_(absl::Now() + options_.timeout, stop) {}

  absl::Status Open() {
    GANTRY_ASSIGN_OR_RETURN(const std::vector<boost::asio::ip::address> addresses, ResolveHost(sender_.host_));
    GANTRY_RETURN_IF_ERROR(stream_.Connect(addresses, sender_.port_));
    if (options_.security == "tls") GANTRY_RETURN_IF_ERROR(stream_.StartTls(sender_.tls_.get(), sender_.host_));
    GANTRY_RETURN_IF_ERROR(Expect(220, "the greeting"));
    GANTRY_RETURN_IF_ERROR(Hello());
    if (options_.security != "starttls") return absl::OkStatus();
    if (!Offers("STARTTLS")) {
      return absl::FailedPreconditionError(
          "the server offers no STARTTLS, and without it nothing is sent; see smtp-security");
    }
    GANTRY_RETURN_IF_ERROR(Command("STARTTLS", 220, "STARTTLS"));
    // Bytes from before the handshake would be taken for the server's words after it (CVE-2011-0411).
    if (stream_.HasUnread()) return absl::FailedPreconditionError("the server spoke before TLS began");
    GANTRY_RETURN_IF_ERROR(stream_.StartTls(sender_.tls_.get(), sender_.host_));
    return Hello();
  }

  absl::Status Authenticate() {
    if (options_.username.empty()) return absl::OkStatus();
    const absl::string_view password = options_.password.Reveal();  // to the server, under TLS
    if (OffersAuth("PLAIN")) {
      const std::string token =
          absl::StrCat(absl::string_view("\0", 1), options_.username, absl::string_view("\0", 1), password);
      return Command(absl::StrCat("AUTH PLAIN ", absl::Base64Escape(token)), 235, "AUTH PLAIN");
    }
    if (OffersAuth("LOGIN")) {
      GANTRY_RETURN_IF_ERROR(Command("AUTH LOGIN", 334, "AUTH LOGIN"));
      GANTRY_RETURN_IF_ERROR(Command(absl::Base64Escape(options_.username), 334, "AUTH LOGIN"));
      return Command(absl::Base64Escape(password), 235, "AUTH LOGIN");
    }
    return absl::FailedPreconditionError("the server offers neither AUTH PLAIN nor AUTH LOGIN; see smtp-username");
  }

  absl::Status Transmit(const Mail& mail) {
    GANTRY_RETURN_IF_ERROR(CommandForMail(absl::StrCat("MAIL FROM:<", mail.from, ">"), 250, "MAIL FROM"));
    GANTRY_RETURN_IF_ERROR(CommandForMail(absl::StrCat("RCPT TO:<", mail.to, ">"), 250, "RCPT TO"));
    GANTRY_RETURN_IF_ERROR(CommandForMail("DATA", 354, "DATA"));
    GANTRY_RETURN_IF_ERROR(stream_.WriteAll(DotStuffed(ComposeMail(mail))));
    GANTRY_RETURN_IF_ERROR(CommandForMail(".", 250, "the mail"));
    stream_.WriteAll("QUIT\r\n").IgnoreError();  // the mail is taken, whatever comes of this
    return absl::OkStatus();
  }

 private:
  absl::Status Hello() { return Command(absl::StrCat("EHLO ", HostName()), 250, "EHLO"); }
  bool Offers(absl::string_view extension) const {
    for (const std::string& line : hello_.lines) {
      if (absl::EqualsIgnoreCase(line.substr(0, line.find(' ')), extension)) return true;
    }
    return false;
  }
  bool OffersAuth(absl::string_view mechanism) const {
    for (const std::string& line : hello_.lines) {
      const std::vector<std::string> words = absl::StrSplit(absl::AsciiStrToUpper(line), absl::ByAnyChar(" ="));
      if (words[0] != "AUTH") continue;
      for (size_t i = 1; i < words.size(); ++i) {
        if (words[i] == mechanism) return true;
      }
    }
    return false;
  }

  absl::Status Command(absl::string_view line, int expected, absl::string_view name) {
    GANTRY_RETURN_IF_ERROR(stream_.WriteAll(absl::StrCat(line, "\r\n")));
    return Expect(expected, name);
  }
  // 5xx says that this mail, not this connection, is refused.
  absl::Status CommandForMail(absl::string_view line, int expected, absl::string_view name) {
    const absl::Status status = Command(line, expected, name);
    if (absl::IsFailedPrecondition(status) && last_.code / 100 == 5) return absl::AbortedError(status.message());
    return status;
  }

  absl::Status Expect(int expected, absl::string_view name) {
    last_ = {};
    for (size_t i = 0; i < kReplyLinesLimit; ++i) {
      GANTRY_ASSIGN_OR_RETURN(const std::string line, stream_.ReadLine(kReplyLineLimit));
      const absl::string_view digits = absl::string_view(line).substr(0, 3);
      const char separator = line.size() > 3 ? line[3] : ' ';
      int code = 0;
      if (digits.size() != 3 || !absl::SimpleAtoi(digits, &code) || code < 200 || code > 599 ||
          (separator != ' ' && separator != '-') || (last_.code != 0 && code != last_.code)) {
        return absl::FailedPreconditionError(absl::StrCat(name, ": the server's reply is no SMTP: ", Shown(line)));
      }
      last_.code = code;
      last_.lines.push_back(line.size() > 4 ? line.substr(4) : "");
      if (separator == '-') continue;
      if (name == "EHLO") hello_ = last_;
      if (code == expected) return absl::OkStatus();
      const std::string what = absl::StrCat(name, ": the server answers ", code, " ", Shown(last_.lines[0]));
      return code / 100 == 4 ? absl::UnavailableError(what) : absl::FailedPreconditionError(what);
    }
    return absl::FailedPreconditionError(absl::StrCat(name, ": a reply of more than ", kReplyLinesLimit, " lines"));
  }

  const SmtpSender& sender_;
  const SmtpOptions& options_;
  OutgoingStream stream_;
  Reply last_, hello_;
};

absl::StatusOr<std::unique_ptr<SmtpSender>> SmtpSender::Create(SmtpOptions options) {
  const bool starttls = options.security == "starttls", tls = options.security == "tls";
  if (!starttls && !tls && options.security != "none") {
    return absl::InvalidArgumentError("smtp-security: expected starttls, tls or none");
  }
  uint32_t port = tls ? 465 : starttls ? 587 : 25;
  std::string host = options.server;
  if (const size_t colon = host.rfind(':'); colon != std::string::npos) {
    if (!absl::SimpleAtoi(host.substr(colon + 1), &port) || port == 0 || port > 65535) {
      return absl::InvalidArgumentError(absl::StrCat("smtp-server: `", host, "`: expected host or host:port"));
    }
    host.resize(colon);
  }
  if (host.empty()) return absl::InvalidArgumentError("smtp-server: expected host or host:port");
  if (absl::Status from = CheckMailAddress(options.from); !from.ok()) return Annotate(from, "smtp-from");
  if (options.username.empty() != options.password.empty()) {
    return absl::InvalidArgumentError("smtp-username and smtp-password-file go together");
  }
  if (!options.username.empty() && options.security == "none") {
    return absl::InvalidArgumentError("smtp-security = none would send the password in the clear");
  }
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<ClientTls> context, ClientTls::Create(options.authority_file));
  return std::unique_ptr<SmtpSender>(
      new SmtpSender(std::move(options), std::move(host), static_cast<uint16_t>(port), std::move(context)));
}

SendResult SmtpSender::Send(const Mail& mail, StreamStop* stop) const {
  Dialogue dialogue(*this, stop);
  absl::Status status = dialogue.Open();
  if (status.ok()) status = dialogue.Authenticate();
  if (status.ok()) status = dialogue.Transmit(mail);
  const bool permanent = absl::IsAborted(status);
  return {Annotate(status, absl::StrCat("SMTP with ", options_.server)), permanent};
}

}  // namespace gantry::billing
