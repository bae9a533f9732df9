#include "services/common/metrics.h"

#include <arpa/inet.h>
#include <prometheus/counter.h>
#include <prometheus/registry.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gantry {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

int Connect(int port) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

std::string ReadAll(int fd) {
  std::string out;
  char buffer[4096];
  for (ssize_t got; (got = read(fd, buffer, sizeof(buffer))) > 0;) out.append(buffer, static_cast<size_t>(got));
  close(fd);
  return out;
}

std::string Ask(int port, const std::string& request) {
  int fd = Connect(port);
  EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
  return ReadAll(fd);
}

class MetricsServerTest : public ::testing::Test {
 protected:
  MetricsServerTest() {
    auto server = MetricsServer::Start(
        "127.0.0.1:0", &metrics_, [this] { return health_; }, [this] { ++scrapes_; });
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  Metrics metrics_;
  Health health_{.live = true, .ready = true, .detail = "1 worker"};
  int scrapes_ = 0;
  std::unique_ptr<MetricsServer> server_;
};

TEST_F(MetricsServerTest, MetricsAreInPrometheusText) {
  prometheus::BuildCounter()
      .Name("gantry_test_total")
      .Help("h")
      .Register(*metrics_.registry())
      .Add({{"a", "b"}})
      .Increment(3);
  std::string reply = Ask(server_->port(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(reply, HasSubstr("gantry_test_total{a=\"b\"} 3"));
  EXPECT_EQ(scrapes_, 1);
}

TEST_F(MetricsServerTest, HealthIs503UntilLiveAndReady) {
  EXPECT_THAT(Ask(server_->port(), "GET /healthz HTTP/1.0\r\n\r\n"),
              HasSubstr("{\"detail\":\"1 worker\",\"live\":true,\"ready\":true}"));
  health_.ready = false;
  EXPECT_THAT(Ask(server_->port(), "GET /healthz HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 503 "));
}

TEST_F(MetricsServerTest, OtherRequestsGetAnAnswer) {
  EXPECT_THAT(Ask(server_->port(), "GET / HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Ask(server_->port(), "POST /metrics HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(Ask(server_->port(), "\x16\x03\x01 garbage\r\n\r\n"), StartsWith("HTTP/1.1 405 "));
}

TEST_F(MetricsServerTest, ARequestWithoutEndIsCutOff) {
  int fd = Connect(server_->port());
  std::string junk(9000, 'x');
  send(fd, junk.data(), junk.size(), MSG_NOSIGNAL);
  EXPECT_THAT(ReadAll(fd), ::testing::AnyOf(StartsWith("HTTP/1.1 431 "), ::testing::IsEmpty()));
}

TEST_F(MetricsServerTest, SilentConnectionsDoNotStopOthersAndAreClosed) {
  std::vector<int> silent;
  silent.reserve(10);
  for (int i = 0; i < 10; ++i) silent.push_back(Connect(server_->port()));
  EXPECT_THAT(Ask(server_->port(), "GET /metrics HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 200 OK"));
  absl::Time start = absl::Now();
  for (int fd : silent) EXPECT_EQ(ReadAll(fd), "");
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
}

TEST_F(MetricsServerTest, AnAddressInUseIsNamed) {
  std::string address = absl::StrCat("127.0.0.1:", server_->port());
  auto second = MetricsServer::Start(address, &metrics_, [] { return Health{}; });
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(address + ": Address already in use"));
  EXPECT_FALSE(MetricsServer::Start("nowhere", &metrics_, [] { return Health{}; }).ok());
  EXPECT_FALSE(MetricsServer::Start("127.0.0.1:99999", &metrics_, [] { return Health{}; }).ok());
}

}  // namespace
}  // namespace gantry
