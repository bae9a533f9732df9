#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/common/metrics.h"

namespace gantry {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kConnectionLimit = 16;
constexpr size_t kRequestLimit = 8192;
constexpr std::chrono::milliseconds kConnectionTime{2000};

struct Connection {
  int fd = -1;
  Clock::time_point deadline;
  std::string in;
  std::string out;  // not empty: being written
  size_t written = 0;
};

std::string Reply(absl::string_view status, absl::string_view type, absl::string_view body) {
  return absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Type: ", type, "\r\nContent-Length: ", body.size(),
                      "\r\nConnection: close\r\n\r\n", body);
}

}  // namespace

struct MetricsServer::Impl {
  const Metrics* metrics = nullptr;
  std::function<Health()> health;
  std::function<void()> before_scrape;
  int listen_fd = -1;
  int stop_fd = -1;
  int port = 0;
  std::vector<Connection> connections;
  std::thread thread;

  std::string Answer(absl::string_view request) const {
    absl::string_view line = request.substr(0, request.find("\r\n"));
    if (!absl::StartsWith(line, "GET ")) {
      return Reply("405 Method Not Allowed", "text/plain", "only GET\n");
    }
    line.remove_prefix(4);
    absl::string_view path = line.substr(0, line.find_first_of(" ?"));
    if (path == "/metrics") {
      if (before_scrape) before_scrape();
      return Reply("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics->Render());
    }
    if (path == "/healthz") {
      Health now = health();
      nlohmann::json body = {{"live", now.live}, {"ready", now.ready}, {"detail", now.detail}};
      return Reply(now.live && now.ready ? "200 OK" : "503 Service Unavailable", "application/json",
                   body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    }
    return Reply("404 Not Found", "text/plain", "try /metrics or /healthz\n");
  }

  // False: the connection is over.
  bool Serve(Connection& connection, short events) const {
    if ((events & (POLLERR | POLLNVAL)) != 0) return false;
    if (connection.out.empty()) {
      char buffer[2048];
      ssize_t got = read(connection.fd, buffer, sizeof(buffer));
      if (got < 0) return errno == EAGAIN || errno == EINTR;
      if (got == 0) return false;
      connection.in.append(buffer, static_cast<size_t>(got));
      if (connection.in.find("\r\n\r\n") != std::string::npos) {
        connection.out = Answer(connection.in);
      } else if (connection.in.size() > kRequestLimit) {
        connection.out = Reply("431 Request Header Fields Too Large", "text/plain", "request too long\n");
      } else {
        return true;
      }
    }
    while (connection.written < connection.out.size()) {
      ssize_t sent = send(connection.fd, connection.out.data() + connection.written,
                          connection.out.size() - connection.written, MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      connection.written += static_cast<size_t>(sent);
    }
    return false;
  }

  void Loop() {
    std::vector<pollfd> fds;
    while (true) {
      fds.clear();
      fds.push_back({stop_fd, POLLIN, 0});
      // When all places are taken, further clients wait in the kernel's backlog.
      fds.push_back({connections.size() < kConnectionLimit ? listen_fd : -1, POLLIN, 0});
      auto now = Clock::now();
      int timeout_ms = -1;
      for (const Connection& connection : connections) {
        fds.push_back({connection.fd, static_cast<short>(connection.out.empty() ? POLLIN : POLLOUT), 0});
        auto left = std::chrono::duration_cast<std::chrono::milliseconds>(connection.deadline - now).count() + 1;
        int left_ms = static_cast<int>(std::clamp<int64_t>(left, 0, kConnectionTime.count()));
        timeout_ms = timeout_ms < 0 ? left_ms : std::min(timeout_ms, left_ms);
      }
      if (poll(fds.data(), fds.size(), timeout_ms) < 0 && errno != EINTR) return;
      if (fds[0].revents != 0) return;
      now = Clock::now();
      for (size_t i = connections.size(); i-- > 0;) {
        short events = fds[i + 2].revents;
        if ((events != 0 && !Serve(connections[i], events)) || now >= connections[i].deadline) {
          close(connections[i].fd);
          connections.erase(connections.begin() + static_cast<ptrdiff_t>(i));
        }
      }
      if (fds[1].revents != 0) {
        int fd = accept4(listen_fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) connections.push_back({fd, now + kConnectionTime, "", "", 0});
      }
    }
  }
};

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

MetricsServer::~MetricsServer() {
  uint64_t one = 1;
  [[maybe_unused]] ssize_t written = write(impl_->stop_fd, &one, sizeof(one));
  impl_->thread.join();
  for (const Connection& connection : impl_->connections) close(connection.fd);
  close(impl_->listen_fd);
  close(impl_->stop_fd);
}

int MetricsServer::port() const {
  return impl_->port;
}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address, const Metrics* metrics,
                                                                    std::function<Health()> health,
                                                                    std::function<void()> before_scrape) {
  size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("metrics address '", address, "': expected host:port"));
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_PASSIVE;
  addrinfo* found = nullptr;
  std::string host = address.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (int error = getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &hints, &found); error != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics address '", address, "': expected a numeric host such as 127.0.0.1"));
  }
  auto free_found = absl::MakeCleanup([found] { freeaddrinfo(found); });

  auto impl = std::make_unique<Impl>();
  int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("metrics address ", address));
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 16) != 0) {
    int error = errno;
    close(fd);
    return absl::UnavailableError(
        absl::StrCat("metrics address ", address, ": ", std::strerror(error), "; choose another with --metrics"));
  }
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size);
  impl->port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                                 : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  impl->listen_fd = fd;
  impl->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  impl->metrics = metrics;
  impl->health = std::move(health);
  impl->before_scrape = std::move(before_scrape);
  impl->thread = std::thread([raw = impl.get()] { raw->Loop(); });
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

}  // namespace gantry
