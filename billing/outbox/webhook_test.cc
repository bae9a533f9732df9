// Webhooks to real HTTP and HTTPS servers on this machine.
#include "billing/outbox/webhook.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "billing/outbox/signature.h"
#include "billing/outbox/test_servers.h"
#include "services/common/digest.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

const TestCertificate& Localhost() {
  static const auto* certificate = new TestCertificate("DNS:localhost,IP:127.0.0.1");
  return *certificate;
}

WebhookOptions Local() {
  WebhookOptions options;
  options.private_networks = "127.0.0.0/8";
  options.authority_file = Localhost().file();
  options.timeout = absl::Seconds(5);
  return options;
}

absl::Status Send(const WebhookOptions& options, const std::string& url, const WebhookRequest& request = {}) {
  const absl::StatusOr<std::unique_ptr<WebhookSender>> sender = WebhookSender::Create(options);
  EXPECT_TRUE(sender.ok()) << sender.status();
  const absl::StatusOr<Target> target = ParseTarget(url);
  EXPECT_TRUE(target.ok()) << target.status();
  return (*sender)->Send(std::get<WebhookTarget>(*target), request, nullptr).status;
}

TEST(Webhook, ArrivesWithItsHeadersAndBody) {
  for (const TestCertificate* certificate : {static_cast<const TestCertificate*>(nullptr), &Localhost()}) {
    TestHttpServer server(nullptr, certificate);
    const absl::Status sent =
        Send(Local(), server.url("localhost"), {{{"Gantry-Message", "019a"}}, "{\"text\":\"h\u00e9\"}"});
    ASSERT_TRUE(sent.ok()) << sent;
    ASSERT_EQ(server.requests().size(), 1u);
    TestHttpRequest request = server.requests()[0];
    EXPECT_EQ(request.line, "POST /hooks/gantry?a=1 HTTP/1.1");
    EXPECT_TRUE(absl::StartsWith(request.headers["host"], "localhost:"));
    EXPECT_EQ(request.headers["content-type"], "application/json");
    EXPECT_EQ(request.headers["gantry-message"], "019a");
    EXPECT_EQ(request.body, "{\"text\":\"h\u00e9\"}");
  }
}

TEST(Webhook, OnlyAnAnswer2xxIsDelivery) {
  const struct {
    const char *response, *says;
  } cases[] = {
      {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ""},
      {"HTTP/1.1 202 Accepted\r\nContent-Length: 1000000\r\n\r\n", ""},
      {"HTTP/1.1 299 Fine\r\n\r\n", ""},
      {"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
       "the answer is 301, a redirect, and none is followed"},
      {"HTTP/1.1 307 Moved\r\nLocation: /other\r\n\r\n", "the answer is 307, a redirect"},
      {"HTTP/1.1 400 Bad\r\n\r\n", "the answer is 400"},
      {"HTTP/1.1 410 Gone\r\n\r\n", "the answer is 410"},
      {"HTTP/1.1 500 Oops\r\n\r\n", "the answer is 500"},
      {"HTTP/1.1 100 Continue\r\n\r\n", "the answer is 100"},
      {"SSH-2.0-OpenSSH\r\n", "waiting for the answer"},
      {"", "waiting for the answer"},
  };
  for (const auto& c : cases) {
    TestHttpServer server([&](const TestHttpRequest&, TestSocket&) { return std::string(c.response); });
    const absl::Status status = Send(Local(), server.url());
    EXPECT_EQ(status.ok(), std::string(c.says).empty()) << c.response << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
    EXPECT_EQ(server.requests().size(), 1u);
  }
}

TEST(Webhook, AnswersAreBounded) {
  TestHttpServer endless([](const TestHttpRequest&, TestSocket& socket) {
    socket.Write("HTTP/1.1 200 OK\r\n");
    while (socket.Write("X-Filler: " + std::string(1000, 'x') + "\r\n")) {
    }
    return std::string();
  });
  const absl::Status status = Send(Local(), endless.url());
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("waiting for the answer"));
}

TEST(Webhook, ServersThatHangCostOneDeadline) {
  const TestHttpServer::Answer answers[] = {[](const TestHttpRequest&, TestSocket& socket) {
                                              socket.Hang();
                                              return std::string();
                                            },
                                            // A byte now and then keeps nobody waiting longer.
                                            [](const TestHttpRequest&, TestSocket& socket) {
                                              while (socket.Write("H")) absl::SleepFor(absl::Milliseconds(20));
                                              return std::string();
                                            }};
  for (const TestHttpServer::Answer& answer : answers) {
    TestHttpServer server(answer);
    WebhookOptions options = Local();
    options.timeout = absl::Milliseconds(200);
    const absl::Time begin = absl::Now();
    EXPECT_FALSE(Send(options, server.url()).ok());
    EXPECT_LT(absl::Now() - begin, absl::Seconds(3));
  }
  TestServer silent([](TestSocket& socket) { socket.Hang(); });  // accepts, and never shakes hands
  WebhookOptions options = Local();
  options.timeout = absl::Milliseconds(200);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Send(options, absl::StrCat("https://localhost:", silent.port(), "/"))));
}

TEST(Webhook, PrivateAddressesAreRefusedBeforeAnythingIsSent) {
  TestHttpServer plain, tls(nullptr, &Localhost());
  for (const std::string& url : {plain.url(), tls.url("localhost"), plain.url("localhost"),
                                 absl::StrCat("http://2130706433:", plain.url().substr(17, 5), "/"),
                                 absl::StrCat("http://0x7f.1:", plain.url().substr(17, 5), "/")}) {
    const absl::Status status = Send(WebhookOptions(), url);
    EXPECT_TRUE(absl::IsPermissionDenied(status)) << url << " " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("webhook-private-networks"));
  }
  EXPECT_EQ(plain.connections() + tls.connections(), 0);
}

// A name is asked for once: what was looked at is what is called, whatever the name says a moment later.
TEST(Webhook, ANameIsResolvedOnce) {
  TestHttpServer server;
  std::atomic<int> asked{0};
  WebhookOptions options = Local();
  options.private_networks = "127.0.0.1";
  options.resolve = [&](const std::string& host) -> absl::StatusOr<std::vector<boost::asio::ip::address>> {
    EXPECT_EQ(host, "hooks.example");
    return std::vector{boost::asio::ip::make_address(++asked == 1 ? "127.0.0.1" : "127.0.0.2")};
  };
  EXPECT_TRUE(Send(options, server.url("hooks.example")).ok());
  EXPECT_EQ(asked, 1);
  const absl::Status second = Send(options, server.url("hooks.example"));
  EXPECT_TRUE(absl::IsPermissionDenied(second)) << second;
}

TEST(Webhook, ANameWithOneForbiddenAddressIsForbidden) {
  TestHttpServer server;
  WebhookOptions options = Local();
  options.private_networks = "127.0.0.1";
  options.resolve = [](const std::string&) -> absl::StatusOr<std::vector<boost::asio::ip::address>> {
    return std::vector{boost::asio::ip::make_address("127.0.0.1"), boost::asio::ip::make_address("10.0.0.1")};
  };
  EXPECT_TRUE(absl::IsPermissionDenied(Send(options, server.url("hooks.example"))));
  EXPECT_EQ(server.connections(), 0);
}

TEST(Webhook, TheNextAddressIsTriedWhenOneDoesNotAnswer) {
  TestHttpServer server;
  WebhookOptions options = Local();
  options.resolve = [](const std::string&) -> absl::StatusOr<std::vector<boost::asio::ip::address>> {
    return std::vector{boost::asio::ip::make_address("127.0.0.9"), boost::asio::ip::make_address("127.0.0.1")};
  };
  EXPECT_TRUE(Send(options, server.url("hooks.example")).ok());
}

TEST(Webhook, CertificatesAreVerified) {
  const TestCertificate other("DNS:other.example");
  TestHttpServer server(nullptr, &other);
  WebhookOptions options = Local();
  EXPECT_THAT(std::string(Send(options, server.url("localhost")).message()), HasSubstr("self-signed certificate"));
  options.authority_file = other.file();
  EXPECT_THAT(std::string(Send(options, server.url("localhost")).message()), HasSubstr("hostname mismatch"));
  EXPECT_THAT(std::string(Send(options, server.url("127.0.0.1")).message()), HasSubstr("IP address mismatch"));
  EXPECT_TRUE(server.requests().empty());
}

TEST(Webhook, NobodyListensThere) {
  int port = 0;
  {
    port = TestServer([](TestSocket&) {}).port();
  }
  EXPECT_TRUE(absl::IsUnavailable(Send(Local(), absl::StrCat("http://127.0.0.1:", port, "/"))));
  EXPECT_TRUE(absl::IsUnavailable(Send(Local(), "https://no-such-name.invalid/")));
}

// What a receiver does, in its own words.
TEST(Signature, IsTheHmacOfTimeAndBodyUnderEachSecret) {
  const Secret pepper(std::string(32, 'p'));
  const Id16 endpoint = *Id16::FromHex("019a0000000000000000000000000001");
  const Secret one = WebhookSecret(pepper, endpoint, 1), two = WebhookSecret(pepper, endpoint, 2);
  EXPECT_TRUE(absl::StartsWith(one.Reveal(), "whsec_"));
  EXPECT_EQ(one.Reveal().size(), 49u);
  EXPECT_FALSE(one.Equals(two.Reveal()));
  EXPECT_FALSE(one.Equals(WebhookSecret(pepper, Id16{}, 1).Reveal()));
  EXPECT_TRUE(one.Equals(WebhookSecret(pepper, endpoint, 1).Reveal()));
  const std::string header = WebhookSignature({{2, two}, {1, one}}, 1'794'312'000, "{\"a\":1}");
  const std::vector<std::string> parts = absl::StrSplit(header, ',');
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0], "t=1794312000");
  EXPECT_EQ(parts[1], "v1=2:" + absl::BytesToHexString(HmacSha256(two, "1794312000.{\"a\":1}")));
  EXPECT_EQ(parts[2], "v1=1:" + absl::BytesToHexString(HmacSha256(one, "1794312000.{\"a\":1}")));
}

}  // namespace
}  // namespace gantry::billing
