#include "gateway/http/server.h"

#include <openssl/ssl.h>

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "gateway/http/wakeup.h"
#include "gateway/testing/http_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/rpc_test_util.h"

namespace gantry::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Answers with what it got: "POST /path 5". /stream writes "tick" until the client leaves; /slow waits a little;
// /throw throws; /unfinished leaves its stream open; a path with "no" is refused by its head.
class EchoHandler final : public HttpHandler {
 public:
  std::optional<HttpReply> CheckHead(const HttpRequest& head) override {
    if (head.path != "/no") return std::nullopt;
    HttpReply reply;
    reply.status = 401;
    reply.body = "refused";
    return reply;
  }
  boost::asio::awaitable<void> Handle(HttpRequest request, HttpExchange& exchange) override {
    if (request.path == "/throw") throw std::runtime_error("a bug");
    if (request.path == "/stream" || request.path == "/unfinished") {
      co_await Stream(request.path == "/unfinished", exchange);
      co_return;
    }
    if (request.path == "/slow") {
      boost::asio::steady_timer timer(exchange.executor(), std::chrono::milliseconds(100));
      co_await timer.async_wait(boost::asio::use_awaitable);
    }
    HttpReply reply;
    reply.body = absl::StrCat(request.method, " ", request.path, " ", request.body.size());
    co_await exchange.Send(std::move(reply));
  }
  HttpReply TransportError(int status, absl::string_view message) override {
    HttpReply reply;
    reply.status = status;
    reply.body = std::string(message);
    return reply;
  }
  std::atomic<int> left{0};

 private:
  boost::asio::awaitable<void> Stream(bool unfinished, HttpExchange& exchange) {
    Wakeup wakeup(exchange.executor());
    exchange.WatchClient(&wakeup);
    HttpReply head;
    head.content_type = "text/event-stream";
    exchange.StartStream(std::move(head));
    for (int i = 0; i < 200; ++i) {
      const bool ok = co_await exchange.Write("tick\n");
      if (unfinished) co_return;
      if (!ok || exchange.client_gone()) {
        ++left;
        co_return;
      }
      co_await wakeup.Wait(std::chrono::steady_clock::now() + std::chrono::milliseconds(5));
    }
    co_await exchange.FinishStream();
  }
};

class HttpServerTest : public ::testing::Test {
 protected:
  HttpServerTest() { options_.address = "127.0.0.1:0"; }
  void Start() {
    auto server = HttpServer::Start(options_, &handler_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  // Everything the server says to these bytes, until it has nothing more to say or closes.
  HttpAnswer Say(const std::string& bytes) {
    HttpClient client(server_->port());
    client.Send(bytes);
    return client.Read();
  }
  EchoHandler handler_;
  HttpServerOptions options_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, RequestsAreAnsweredAndTheConnectionIsKept) {
  Start();
  HttpClient client(server_->port());
  for (int i = 0; i < 3; ++i) {
    client.Request("POST", absl::StrCat("/", i), "", "hello");
    EXPECT_EQ(client.Read().body, absl::StrCat("POST /", i, " 5"));
  }
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  Start();
  HttpClient client(server_->port());
  client.Send(
      "GET /slow HTTP/1.1\r\nhost: t\r\n\r\n"
      "GET /b HTTP/1.1\r\nhost: t\r\n\r\nPOST /c HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nxx");
  EXPECT_EQ(client.Read().body, "GET /slow 0");
  EXPECT_EQ(client.Read().body, "GET /b 0");
  EXPECT_EQ(client.Read().body, "POST /c 2");
}

TEST_F(HttpServerTest, BodiesInChunksAndWithExpectation) {
  Start();
  EXPECT_EQ(
      Say("POST /x HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").body,
      "POST /x 5");
  HttpClient client(server_->port());
  client.Send("POST /x HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
  ASSERT_TRUE(client.ReadUntil("HTTP/1.1 100 Continue\r\n\r\n"));
  client.Send("abc");
  EXPECT_TRUE(client.ReadUntil("POST /x 3"));
}

TEST_F(HttpServerTest, AnOldClientGetsAnOldReply) {
  Start();
  HttpClient client(server_->port());
  client.Send("GET /stream HTTP/1.0\r\n\r\n");
  ASSERT_TRUE(client.ReadUntil("tick\ntick\n"));
  client.Close();
  const absl::Time limit = absl::Now() + absl::Seconds(5);
  while (handler_.left == 0 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(handler_.left, 1);
}

TEST_F(HttpServerTest, AClientThatLeavesIsNoticedAlsoWithARequestBehind) {
  Start();
  for (const char* behind : {"", "GET /next HTTP/1.1\r\nhost: t\r\n\r\n"}) {
    handler_.left = 0;
    HttpClient client(server_->port());
    client.Send(absl::StrCat("GET /stream HTTP/1.1\r\nhost: t\r\n\r\n", behind));
    ASSERT_TRUE(client.ReadUntil("tick"));
    client.Close();
    const absl::Time limit = absl::Now() + absl::Seconds(5);
    while (handler_.left == 0 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(handler_.left, 1);
  }
}

TEST_F(HttpServerTest, AStreamThatWasNotFinishedIsLeftUnterminated) {
  Start();
  const HttpAnswer answer = Say("GET /unfinished HTTP/1.1\r\nhost: t\r\n\r\n");
  EXPECT_EQ(answer.status, 200);
  EXPECT_FALSE(answer.complete);
}

TEST_F(HttpServerTest, ABugInAHandlerIsA500AndTheServerLives) {
  Start();
  EXPECT_EQ(Say("GET /throw HTTP/1.1\r\nhost: t\r\n\r\n").status, 500);
  EXPECT_EQ(Say("GET /fine HTTP/1.1\r\nhost: t\r\n\r\n").status, 200);
}

TEST_F(HttpServerTest, WhatIsMalformedOrTooLargeIsRefused) {
  options_.max_body_bytes = 1000;
  options_.max_header_bytes = 2000;
  Start();
  struct Row {
    std::string bytes;
    int status;
  };
  for (const Row& row : std::vector<Row>{
           {"hello\r\n\r\n", 400},
           {"GET / HTTP/3.7\r\n\r\n", 400},
           {"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: -1\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400},
           {"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400},
           {"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 1001\r\n\r\n", 413},
           {absl::StrCat("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n",
                         std::string(1001, 'x'), "\r\n0\r\n\r\n"),
            413},
           {absl::StrCat("GET / HTTP/1.1\r\nx: ", std::string(3000, 'x'), "\r\n\r\n"), 431},
           {absl::StrCat("GET /", std::string(3000, 'x'), " HTTP/1.1\r\n\r\n"), 431},
       }) {
    EXPECT_EQ(Say(row.bytes).status, row.status) << row.bytes.substr(0, 100);
  }
  EXPECT_EQ(Say("GET /fine HTTP/1.1\r\nhost: t\r\n\r\n").status, 200);
}

TEST_F(HttpServerTest, ARefusedHeadIsAnsweredBeforeItsBody) {
  Start();
  HttpClient client(server_->port());
  client.Send("POST /no HTTP/1.1\r\nhost: t\r\ncontent-length: 10000000\r\n\r\n");
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 401);
  EXPECT_EQ(answer.Header("connection"), "close");
  // A small body is read away, and the connection is kept.
  HttpClient small(server_->port());
  small.Send("POST /no HTTP/1.1\r\nhost: t\r\ncontent-length: 3\r\n\r\nabcGET /x HTTP/1.1\r\nhost: t\r\n\r\n");
  EXPECT_EQ(small.Read().status, 401);
  EXPECT_EQ(small.Read().body, "GET /x 0");
}

TEST_F(HttpServerTest, WhoIsSlowIsCut) {
  options_.header_timeout = absl::Milliseconds(100);
  options_.body_timeout = absl::Milliseconds(100);
  options_.idle_timeout = absl::Milliseconds(100);
  Start();
  EXPECT_EQ(Say("GET / HTTP/1.1\r\nhost").status, 408);
  EXPECT_EQ(Say("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\nabc").status, 408);
  HttpClient idle(server_->port());
  EXPECT_TRUE(idle.ClosedByServer(absl::Seconds(2)));
}

TEST_F(HttpServerTest, ConnectionsAndBodiesAreBounded) {
  options_.max_connections = 2;
  options_.max_bodies_bytes = 5000;
  Start();
  {
    HttpClient one(server_->port()), two(server_->port());
    one.Request("GET", "/a", "");
    two.Request("GET", "/b", "");
    EXPECT_EQ(one.Read().status, 200);
    EXPECT_EQ(two.Read().status, 200);
    HttpClient three(server_->port());
    three.Request("GET", "/c", "");
    EXPECT_EQ(three.Read().status, 503);
  }
  const absl::Time limit = absl::Now() + absl::Seconds(5);
  while (server_->connections() > 0 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
  HttpClient holds(server_->port());
  holds.Send("POST /x HTTP/1.1\r\nhost: t\r\ncontent-length: 4000\r\n\r\n");
  absl::SleepFor(absl::Milliseconds(20));
  const std::string second =
      absl::StrCat("POST /x HTTP/1.1\r\nhost: t\r\ncontent-length: 2000\r\n\r\n", std::string(2000, 'x'));
  EXPECT_EQ(Say(second).status, 503);
  holds.Send(std::string(4000, 'x'));
  EXPECT_EQ(holds.Read().status, 200);
  // The room is free a moment after its reply has been read.
  int status = 0;
  while (status != 200 && absl::Now() < limit) status = Say(second).status;
  EXPECT_EQ(status, 200);
}

TEST_F(HttpServerTest, ADrainLetsRepliesEndAndClosesIdleConnections) {
  Start();
  HttpClient busy(server_->port()), idle(server_->port());
  busy.Request("GET", "/slow", "");
  absl::SleepFor(absl::Milliseconds(20));
  server_->Drain(absl::Seconds(5));
  EXPECT_EQ(busy.Read().body, "GET /slow 0");
  EXPECT_TRUE(idle.ClosedByServer(absl::Seconds(1)));
  EXPECT_EQ(server_->connections(), 0);
  HttpClient late(server_->port());
  EXPECT_FALSE(late.connected());
}

TEST_F(HttpServerTest, ManyConnectionsAtOnce) {
  Start();
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      HttpClient client(server_->port());
      for (int i = 0; i < 100; ++i) {
        client.Request("POST", "/x", "", std::string(static_cast<size_t>(i) + 1, 'x'));
        good += client.Read().body == absl::StrCat("POST /x ", i + 1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 800);
}

TEST_F(HttpServerTest, TlsIsVersionThreeAndReloadsItsCertificate) {
  TestIdentities identities;
  const TlsFiles files = identities.MakeTls("server");
  options_.tls_certificate = files.certificate;
  options_.tls_key = files.key;
  Start();
  const auto ask = [&](int max_version) {
    SSL_CTX* context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(context, max_version);
    BIO* bio = BIO_new_ssl_connect(context);
    BIO_set_conn_hostname(bio, absl::StrCat("127.0.0.1:", server_->port()).c_str());
    std::string answer;
    const std::string request = "POST /tls HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody";
    if (BIO_do_connect(bio) == 1 && BIO_write(bio, request.data(), static_cast<int>(request.size())) > 0) {
      char buffer[1024];
      for (int n = 0; (n = BIO_read(bio, buffer, sizeof(buffer))) > 0;) answer.append(buffer, static_cast<size_t>(n));
    }
    BIO_free_all(bio);
    SSL_CTX_free(context);
    return answer;
  };
  EXPECT_THAT(ask(TLS1_3_VERSION), HasSubstr("POST /tls 4"));
  EXPECT_EQ(ask(TLS1_2_VERSION), "");
  (void)identities.MakeTls("server");  // other files under the same names
  EXPECT_THAT(ask(TLS1_3_VERSION), HasSubstr("POST /tls 4"));
}

TEST_F(HttpServerTest, StartErrorsNameTheirCause) {
  Start();
  const auto error = [&](const HttpServerOptions& options) {
    return std::string(HttpServer::Start(options, &handler_).status().message());
  };
  EXPECT_THAT(error({.address = absl::StrCat("127.0.0.1:", server_->port())}), HasSubstr("another program uses"));
  EXPECT_THAT(error({.address = "8080"}), HasSubstr("expected IP:PORT"));
  EXPECT_THAT(error({.address = "127.0.0.1:0", .tls_certificate = "/none", .tls_key = "/none"}),
              StartsWith("TLS certificate /none"));
  EXPECT_THAT(error({.address = "127.0.0.1:0", .tls_certificate = "/none"}), HasSubstr("both"));
}

}  // namespace
}  // namespace gantry::gateway
