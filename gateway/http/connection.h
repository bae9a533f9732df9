// One connection of the public listener. Private to gateway/http.
#pragma once

#include <atomic>
#include <memory>

#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/ssl/context.hpp"
#include "gateway/http/server.h"

namespace gantry::gateway {

// What all connections of a server share. Outlives them (they hold it by shared_ptr).
struct HttpShared {
  HttpServerOptions options;
  HttpHandler* handler = nullptr;
  std::atomic<int> connections{0};
  std::atomic<size_t> body_bytes{0};
  std::atomic<bool> draining{false};
};

class ConnectionBase {
 public:
  virtual ~ConnectionBase() = default;
  // Runs until the connection ends. `refuse`: answer 503 to whatever comes and close.
  virtual void Start(bool refuse) = 0;
  // Any thread: close when idle, else after the running reply.
  virtual void Drain() = 0;
  // Any thread: close now.
  virtual void Abort() = 0;
};

// `tls` null: plain.
std::shared_ptr<ConnectionBase> MakeConnection(boost::asio::ip::tcp::socket socket,
                                               std::shared_ptr<boost::asio::ssl::context> tls,
                                               std::shared_ptr<HttpShared> shared);

}  // namespace gantry::gateway
