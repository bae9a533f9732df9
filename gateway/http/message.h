// One HTTP exchange as the API sees it: a request that has been read whole, and the reply that is being written.
// Knows no socket: http/server.cc implements HttpExchange, tests implement it in memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "boost/asio/any_io_executor.hpp"
#include "boost/asio/awaitable.hpp"

namespace gantry::gateway {

class Wakeup;

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;                                // "POST"
  std::string path;                                  // "/v1/models/demo", as sent: percent-encoded, without the query
  HttpHeaders headers;                               // names in lower case, in order
  std::string body;                                  // <= HttpServerOptions::max_body_bytes
  std::string peer;                                  // address of the socket's other end, without port
  std::string id;                                    // "req_" and 32 hex digits; sent back as x-request-id
  std::chrono::steady_clock::time_point received{};  // when the first byte of the header was seen

  // First header of that (lower-case) name; empty when absent.
  absl::string_view Header(absl::string_view name) const;
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  HttpHeaders headers;  // beside those that every reply carries
  std::string body;
};

// The reply's side. All methods run on the executor of the connection; one operation at a time.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual boost::asio::any_io_executor executor() const = 0;

  // The whole reply at once. True: the kernel took every byte.
  virtual boost::asio::awaitable<bool> Send(HttpReply reply) = 0;

  // A streamed reply: the head goes out with the first Write. Bytes given to Write are one chunk and leave as a unit;
  // true: the kernel took them all. False: the client is gone or did not read within the write timeout; nothing more
  // can be written. A reply without FinishStream is left unterminated, which HTTP clients report as an error.
  virtual void StartStream(HttpReply head) = 0;
  virtual boost::asio::awaitable<bool> Write(absl::string_view data) = 0;
  virtual boost::asio::awaitable<bool> FinishStream() = 0;

  // From now until the reply ends, `wakeup` is notified once the client has gone.
  virtual void WatchClient(Wakeup* wakeup) = 0;
  virtual bool client_gone() const = 0;
  // Write failed by its timeout: the client is there but does not read.
  virtual bool client_stalled() const = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Looks at a request whose body has not been read (`body` is empty). A reply refuses it before memory is spent.
  virtual std::optional<HttpReply> CheckHead(const HttpRequest& head) = 0;
  // Must send exactly one reply.
  virtual boost::asio::awaitable<void> Handle(HttpRequest request, HttpExchange& exchange) = 0;
  // Body of a refusal that the transport itself decides: 400, 408, 413, 431, 500, 503.
  virtual HttpReply TransportError(int status, absl::string_view message) = 0;
};

// "Not Found" for 404.
absl::string_view ReasonPhrase(int status);

}  // namespace gantry::gateway
