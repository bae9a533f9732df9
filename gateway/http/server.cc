#include "gateway/http/server.h"

#include <sys/stat.h>

#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "boost/asio/as_tuple.hpp"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/detached.hpp"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/strand.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "gateway/http/connection.h"
#include "services/common/log.h"

namespace gantry::gateway {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

// Connections past the limit that are still told why.
constexpr int kRefusedConnections = 64;

absl::StatusOr<tcp::endpoint> ParseEndpoint(const std::string& address) {
  size_t colon = address.rfind(':');
  uint32_t port = 0;
  std::string host = colon == std::string::npos ? "" : address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host == "localhost") host = "127.0.0.1";
  error_code ec;
  asio::ip::address ip = asio::ip::make_address(host, ec);
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port > 65535 || ec) {
    return absl::InvalidArgumentError(
        absl::StrCat("http address: expected IP:PORT such as 127.0.0.1:8080, found \"", address, "\""));
  }
  return tcp::endpoint(ip, static_cast<uint16_t>(port));
}

int64_t ModifiedNs(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) return 0;
  return st.st_mtim.tv_sec * 1'000'000'000LL + st.st_mtim.tv_nsec;
}

absl::StatusOr<std::shared_ptr<asio::ssl::context>> LoadTls(const HttpServerOptions& options) {
  auto context = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  error_code ec;
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_3_VERSION);
  context->use_certificate_chain_file(options.tls_certificate, ec);
  if (ec) {
    return absl::InvalidArgumentError(absl::StrCat("TLS certificate ", options.tls_certificate, ": ", ec.message()));
  }
  context->use_private_key_file(options.tls_key, asio::ssl::context::pem, ec);
  if (ec) return absl::InvalidArgumentError(absl::StrCat("TLS key ", options.tls_key, ": ", ec.message()));
  if (SSL_CTX_check_private_key(context->native_handle()) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("TLS key ", options.tls_key, " does not belong to certificate ", options.tls_certificate));
  }
  return context;
}

}  // namespace

struct HttpServer::Impl : std::enable_shared_from_this<HttpServer::Impl> {
  explicit Impl(const HttpServerOptions& options)
      : io(options.threads), guard(asio::make_work_guard(io)), acceptor(asio::make_strand(io)) {
    shared->options = options;
  }

  asio::awaitable<void> Accept() {
    for (;;) {
      auto [ec, socket] = co_await acceptor.async_accept(asio::make_strand(io), asio::as_tuple(asio::use_awaitable));
      if (ec == asio::error::operation_aborted || ec == asio::error::bad_descriptor || shared->draining.load())
        co_return;
      if (ec) {
        // Out of descriptors or memory: what is open must end first.
        Log(LogLevel::kWarning, "accepting failed", {{"error", ec.message()}});
        asio::steady_timer pause(acceptor.get_executor(), std::chrono::milliseconds(100));
        co_await pause.async_wait(asio::as_tuple(asio::use_awaitable));
        continue;
      }
      const int open = shared->connections.load();
      if (open >= shared->options.max_connections + kRefusedConnections) continue;
      if (!shared->options.tls_certificate.empty()) ReloadTls();
      std::shared_ptr<ConnectionBase> connection = MakeConnection(std::move(socket), tls, shared);
      {
        std::lock_guard lock(mu);
        if (connections.size() > 64 && connections.size() > 2 * static_cast<size_t>(open)) {
          std::erase_if(connections, [](const auto& weak) { return weak.expired(); });
        }
        connections.push_back(connection);
      }
      connection->Start(open >= shared->options.max_connections);
    }
  }

  // Runs on the acceptor's strand. A pair that does not load leaves the old one in use.
  void ReloadTls() {
    int64_t stamp = ModifiedNs(shared->options.tls_certificate) ^ (ModifiedNs(shared->options.tls_key) << 1);
    if (stamp == tls_stamp) return;
    tls_stamp = stamp;
    auto loaded = LoadTls(shared->options);
    if (loaded.ok()) {
      tls = *std::move(loaded);
    } else {
      Log(LogLevel::kWarning, "TLS files changed but do not load", {{"error", loaded.status().message()}});
    }
  }

  template <typename F>
  void ForEach(F f) {
    std::vector<std::shared_ptr<ConnectionBase>> live;
    {
      std::lock_guard lock(mu);
      for (const auto& weak : connections) {
        if (auto connection = weak.lock()) live.push_back(std::move(connection));
      }
    }
    for (auto& connection : live) f(*connection);
  }

  std::shared_ptr<HttpShared> shared = std::make_shared<HttpShared>();
  asio::io_context io;
  asio::executor_work_guard<asio::io_context::executor_type> guard;
  tcp::acceptor acceptor;
  int port = 0;
  std::shared_ptr<asio::ssl::context> tls;
  int64_t tls_stamp = 0;
  std::mutex mu;
  std::vector<std::weak_ptr<ConnectionBase>> connections;  // guarded by mu
  std::vector<std::thread> threads;
};

HttpServer::HttpServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options, HttpHandler* handler) {
  absl::StatusOr<tcp::endpoint> endpoint = ParseEndpoint(options.address);
  if (!endpoint.ok()) return endpoint.status();
  if (options.tls_certificate.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("TLS needs both a certificate and a key");
  }
  auto impl = std::make_shared<Impl>(options);
  impl->shared->handler = handler;
  if (!options.tls_certificate.empty()) {
    auto tls = LoadTls(options);
    if (!tls.ok()) return tls.status();
    impl->tls = *std::move(tls);
    impl->tls_stamp = ModifiedNs(options.tls_certificate) ^ (ModifiedNs(options.tls_key) << 1);
  }
  error_code ec;
  impl->acceptor.open(endpoint->protocol(), ec);
  if (!ec) impl->acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) impl->acceptor.bind(*endpoint, ec);
  if (!ec) impl->acceptor.listen(asio::socket_base::max_listen_connections, ec);
  if (ec) {
    return absl::UnavailableError(absl::StrCat(
        "cannot listen on http address ", options.address, ": ", ec.message(),
        ec == asio::error::address_in_use ? "; another program uses this port, choose one with --http" : ""));
  }
  impl->port = impl->acceptor.local_endpoint(ec).port();
  asio::co_spawn(
      impl->acceptor.get_executor(), [raw = impl.get()] { return raw->Accept(); }, asio::detached);
  for (int i = 0; i < options.threads; ++i) {
    impl->threads.emplace_back([raw = impl.get()] { raw->io.run(); });
  }
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::~HttpServer() {
  impl_->shared->draining.store(true);
  asio::post(impl_->acceptor.get_executor(), [impl = impl_.get()] {
    error_code ignored;
    impl->acceptor.close(ignored);
  });
  impl_->ForEach([](ConnectionBase& connection) { connection.Abort(); });
  // Coroutines end by themselves once their sockets are closed; what still waits elsewhere is dropped with the context.
  absl::Time give_up = absl::Now() + absl::Seconds(2);
  while (connections() > 0 && absl::Now() < give_up) absl::SleepFor(absl::Milliseconds(2));
  impl_->io.stop();
  for (std::thread& thread : impl_->threads) thread.join();
}

int HttpServer::port() const {
  return impl_->port;
}
asio::any_io_executor HttpServer::executor() const {
  return impl_->io.get_executor();
}
int HttpServer::connections() const {
  return impl_->shared->connections.load();
}

void HttpServer::Drain(absl::Duration grace) {
  impl_->shared->draining.store(true);
  asio::post(impl_->acceptor.get_executor(), [impl = impl_.get()] {
    error_code ignored;
    impl->acceptor.close(ignored);
  });
  impl_->ForEach([](ConnectionBase& connection) { connection.Drain(); });
  absl::Time deadline = absl::Now() + grace;
  while (connections() > 0 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
}

}  // namespace gantry::gateway
