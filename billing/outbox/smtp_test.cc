// The SMTP client against a real server on this machine.
#include "billing/outbox/smtp.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "billing/outbox/test_servers.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Mail Example() {
  return {.from = "billing@house.example",
          .to = "ops@acme.example",
          .subject = "hello",
          .body = "text",
          .message_id = "019a",
          .time_us = 1'794'312'000'000'000};
}

const TestCertificate& Localhost() {
  static const auto* certificate = new TestCertificate("DNS:localhost,IP:127.0.0.1");
  return *certificate;
}

SmtpOptions Options(const std::string& server, const std::string& security) {
  SmtpOptions options;
  options.server = server;
  options.security = security;
  options.from = "billing@house.example";
  options.timeout = absl::Seconds(5);
  if (security != "none") options.authority_file = Localhost().file();
  return options;
}

SendResult Send(const SmtpOptions& options, StreamStop* stop = nullptr) {
  const absl::StatusOr<std::unique_ptr<SmtpSender>> sender = SmtpSender::Create(options);
  EXPECT_TRUE(sender.ok()) << sender.status();
  return (*sender)->Send(Example(), stop);
}
std::string Problem(const SmtpOptions& options) {
  return std::string(Send(options).status.message());
}

TEST(Smtp, AMailArrivesAsItWasComposed) {
  TestSmtpServer server({});
  const SendResult result = Send(Options(server.address(), "none"));
  ASSERT_TRUE(result.status.ok()) << result.status;
  ASSERT_EQ(server.mails().size(), 1u);
  const TestMail mail = server.mails()[0];
  EXPECT_EQ(mail.from, "<billing@house.example>");
  EXPECT_EQ(mail.to, "<ops@acme.example>");
  EXPECT_EQ(mail.data, ComposeMail(Example()));
}

TEST(Smtp, StartTlsComesBeforeThePassword) {
  TestSmtpServer server({.certificate = &Localhost(), .extensions = {"AUTH LOGIN PLAIN"}});
  SmtpOptions options = Options(server.address("localhost"), "starttls");
  options.username = "gantry";
  options.password = Secret("s3cret\xc3\xa9");
  const SendResult result = Send(options);
  ASSERT_TRUE(result.status.ok()) << result.status;
  const TestMail mail = server.mails().at(0);
  EXPECT_TRUE(mail.tls);
  EXPECT_EQ(mail.user, "gantry");
  EXPECT_EQ(mail.password, "s3cret\xc3\xa9");
  for (const std::string& line : server.heard()) {
    EXPECT_TRUE(absl::StartsWith(line, "tls ") || absl::StartsWith(line, "EHLO") || line == "STARTTLS") << line;
  }
}

TEST(Smtp, AuthLoginWhereThereIsNoPlain) {
  TestSmtpServer server({.certificate = &Localhost(), .tls_first = true, .extensions = {"auth=login"}});
  SmtpOptions options = Options(server.address(), "tls");
  options.username = "gantry";
  options.password = Secret("pass");
  ASSERT_TRUE(Send(options).status.ok());
  EXPECT_EQ(server.mails().at(0).user, "gantry");
  EXPECT_EQ(server.mails().at(0).password, "pass");
}

// Nothing goes out when TLS cannot be had as it was asked for.
TEST(Smtp, WithoutTheTlsAskedForNothingIsSent) {
  const TestCertificate other("DNS:other.example");
  const struct {
    TestSmtpServer::Script script;
    const char *security, *authority, *says;
  } cases[] = {
      {{}, "starttls", "", "offers no STARTTLS, and without it nothing is sent"},
      {{.certificate = &Localhost(), .talk_before_tls = true}, "starttls", "", "the server spoke before TLS began"},
      {{.certificate = &Localhost(), .say = {{"STARTTLS", "454 not now"}}},
       "starttls",
       "",
       "STARTTLS: the server answers 454"},
      {{.certificate = &other}, "starttls", "other", "hostname mismatch"},
      {{.certificate = &other}, "starttls", "", "self-signed certificate"},
      {{.certificate = &other, .tls_first = true}, "tls", "", "self-signed certificate"},
  };
  for (const auto& c : cases) {
    TestSmtpServer server(c.script);
    SmtpOptions options = Options(server.address("localhost"), c.security);
    if (std::string(c.authority) == "other") options.authority_file = other.file();
    options.username = "gantry";
    options.password = Secret("topsecret");
    const SendResult result = Send(options);
    EXPECT_FALSE(result.status.ok());
    EXPECT_FALSE(result.permanent);
    EXPECT_THAT(std::string(result.status.message()), HasSubstr(c.says));
    EXPECT_TRUE(server.mails().empty());
    EXPECT_THAT(absl::StrJoin(server.heard(), "\n"), Not(HasSubstr("MAIL")));
    EXPECT_THAT(absl::StrJoin(server.heard(), "\n"), Not(HasSubstr("AUTH")));
  }
}

TEST(Smtp, WhatIsRefusedForGoodIsNotTriedAgain) {
  const struct {
    const char *verb, *reply, *says;
    bool permanent;
  } cases[] = {
      {"greeting", "554 go away", "the greeting: the server answers 554 go away", false},
      {"greeting", "hello", "the greeting: the server's reply is no SMTP: hello", false},
      {"greeting", "220-a\r\n221 b", "the server's reply is no SMTP: 221 b", false},
      {"EHLO", "502 no", "EHLO: the server answers 502 no", false},
      {"MAIL", "451 busy", "MAIL FROM: the server answers 451 busy", false},
      {"MAIL", "550 not you", "MAIL FROM: the server answers 550 not you", true},
      {"RCPT", "450 grey", "RCPT TO: the server answers 450 grey", false},
      {"RCPT", "550-no such user\r\n550 here", "RCPT TO: the server answers 550 no such user", true},
      {"DATA", "554 no", "DATA: the server answers 554 no", true},
      {".", "452 disk full", "the mail: the server answers 452 disk full", false},
      {".", "554 \x01spam\xff", "the mail: the server answers 554 ?spam?", true},
      {"AUTH", "535 wrong", "AUTH PLAIN: the server answers 535 wrong", false},
  };
  for (const auto& c : cases) {
    TestSmtpServer server(
        {.certificate = &Localhost(), .tls_first = true, .extensions = {"AUTH PLAIN"}, .say = {{c.verb, c.reply}}});
    SmtpOptions options = Options(server.address(), "tls");
    options.username = "gantry";
    options.password = Secret("topsecret");
    const SendResult result = Send(options);
    EXPECT_FALSE(result.status.ok()) << c.says;
    EXPECT_THAT(std::string(result.status.message()), HasSubstr(c.says));
    EXPECT_THAT(std::string(result.status.message()), Not(HasSubstr("topsecret")));
    EXPECT_EQ(result.permanent, c.permanent) << c.says;
    EXPECT_TRUE(server.mails().empty()) << c.says;
  }
}

TEST(Smtp, ServersThatHangOrLeaveCostOneDeadline) {
  for (const char* verb : {"greeting", "EHLO", "MAIL", "RCPT", "DATA", "."}) {
    {
      TestSmtpServer server({.hang_at = verb});
      SmtpOptions options = Options(server.address(), "none");
      options.timeout = absl::Milliseconds(150);
      const absl::Time begin = absl::Now();
      EXPECT_TRUE(absl::IsDeadlineExceeded(Send(options).status)) << verb;
      EXPECT_LT(absl::Now() - begin, absl::Seconds(3)) << verb;
    }
    TestSmtpServer server({.close_at = verb});
    const SendResult result = Send(Options(server.address(), "none"));
    EXPECT_TRUE(absl::IsUnavailable(result.status)) << verb << " " << result.status;
    EXPECT_FALSE(result.permanent);
  }
}

TEST(Smtp, RepliesAreBounded) {
  TestSmtpServer long_line({.say = {{"EHLO", "250 " + std::string(5000, 'x')}}});
  EXPECT_THAT(Problem(Options(long_line.address(), "none")), HasSubstr("a line of more than 2048 bytes"));
  std::string many;
  for (int i = 0; i < 200; ++i) many += "250-x\r\n";
  TestSmtpServer many_lines({.say = {{"EHLO", many + "250 x"}}});
  EXPECT_THAT(Problem(Options(many_lines.address(), "none")), HasSubstr("a reply of more than 100 lines"));
}

TEST(Smtp, AServerThatIsTakingItsTimeIsLeftWhenAskedTo) {
  TestSmtpServer server({.hang_at = "EHLO"});
  StreamStop stop;
  SmtpOptions options = Options(server.address(), "none");
  options.timeout = absl::Seconds(60);
  std::thread stopper([&] {
    while (server.heard().empty()) absl::SleepFor(absl::Milliseconds(1));
    stop.Stop();
  });
  const absl::Time begin = absl::Now();
  EXPECT_FALSE(Send(options, &stop).status.ok());
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_FALSE(Send(options, &stop).status.ok()) << "and nothing begins after that";
  stopper.join();
}

TEST(Smtp, OptionsThatGiveSomethingAwayAreRefused) {
  const struct {
    const char* says;
    std::function<void(SmtpOptions*)> change;
  } cases[] = {
      {"smtp-security: expected starttls, tls or none", [](SmtpOptions* o) { o->security = "ssl"; }},
      {"smtp-server: expected host", [](SmtpOptions* o) { o->server = ":25"; }},
      {"smtp-server: `host:x`", [](SmtpOptions* o) { o->server = "host:x"; }},
      {"smtp-from: mail address: no @", [](SmtpOptions* o) { o->from = "house"; }},
      {"go together", [](SmtpOptions* o) { o->username = "u"; }},
      {"in the clear",
       [](SmtpOptions* o) {
         o->username = "u";
         o->password = Secret("p");
         o->security = "none";
       }},
      {"/nowhere.pem", [](SmtpOptions* o) { o->authority_file = "/nowhere.pem"; }},
  };
  for (const auto& c : cases) {
    SmtpOptions options = Options("mail.house.example", "starttls");
    c.change(&options);
    const absl::Status status = SmtpSender::Create(options).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << c.says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
  }
}

}  // namespace
}  // namespace gantry::billing
