// The public HTTP/1.1 listener: keep-alive, pipelined requests answered in order, everything bounded.
//
// Each connection is one coroutine on its own strand; `threads` threads run them all. Limits: header 16 KiB, body
// 16 MiB, all bodies together 256 MiB, connections 1,024; a header must be complete within 10 s of its first byte, a
// body within 60 s, an idle connection closes after 75 s, and a client that does not read for 30 s is cut. What is
// refused before its body was read is answered first and then drained for a moment, so that the client sees the answer
// and not a reset.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/http/message.h"

namespace gantry::gateway {

struct HttpServerOptions {
  std::string address = "127.0.0.1:8080";  // host:port; port 0 chooses one; [::1]:8080 for IPv6
  std::string tls_certificate;             // PEM chain and key: both or neither. Read again when the files change
  std::string tls_key;
  int threads = 2;
  size_t max_header_bytes = 16 << 10;
  size_t max_body_bytes = 16 << 20;
  size_t max_bodies_bytes = 256 << 20;  // of all requests whose body is being read or handled
  int max_connections = 1024;
  absl::Duration header_timeout = absl::Seconds(10);
  absl::Duration body_timeout = absl::Seconds(60);
  absl::Duration idle_timeout = absl::Seconds(75);
  absl::Duration write_timeout = absl::Seconds(30);
  int send_buffer_bytes = 256 << 10;  // kernel buffer of a connection; 0: the system's
};

class HttpServer {
 public:
  // Binds and serves. `handler` outlives the server. Errors: INVALID_ARGUMENT (address, certificate), UNAVAILABLE
  // (cannot bind; names the address).
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options, HttpHandler* handler);
  // Stops at once; open replies are left unterminated.
  ~HttpServer();

  int port() const;
  boost::asio::any_io_executor executor() const;
  int connections() const;

  // Stops accepting, closes idle connections and, as their replies end, the others. Blocks until none is left or
  // `grace` is over. Call from no thread of the server.
  void Drain(absl::Duration grace);

 private:
  struct Impl;
  explicit HttpServer(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace gantry::gateway
