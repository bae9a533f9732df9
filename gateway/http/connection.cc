#include "gateway/http/connection.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <exception>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "boost/asio/as_tuple.hpp"
#include "boost/asio/bind_cancellation_slot.hpp"
#include "boost/asio/buffer.hpp"
#include "boost/asio/cancellation_signal.hpp"
#include "boost/asio/co_spawn.hpp"
#include "boost/asio/detached.hpp"
#include "boost/asio/dispatch.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/read.hpp"
#include "boost/asio/ssl/stream.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/use_awaitable.hpp"
#include "boost/asio/write.hpp"
#include "boost/beast/core/flat_buffer.hpp"
#include "boost/beast/http/empty_body.hpp"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/read.hpp"
#include "boost/beast/http/string_body.hpp"
#include "gateway/http/wakeup.h"
#include "services/common/ids.h"
#include "services/common/log.h"

namespace gantry::gateway {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using PlainStream = asio::ip::tcp::socket;
using TlsStream = asio::ssl::stream<asio::ip::tcp::socket>;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadBufferBytes = 64 << 10;
// A refused request with a body of at most this many bytes is read to its end and the connection kept.
constexpr uint64_t kDiscardBytes = 64 << 10;
constexpr uint64_t kLingerBytes = 64 << 20;
constexpr auto kLingerTime = std::chrono::seconds(2);
constexpr auto kPeerPollInterval = std::chrono::milliseconds(50);

// RFC 9110 date, formatted once a second and thread.
const std::string& HttpDate() {
  thread_local int64_t second = 0;
  thread_local std::string text;
  int64_t now = absl::ToUnixSeconds(absl::Now());
  if (now != second) {
    second = now;
    text = absl::FormatTime("%a, %d %b %E4Y %H:%M:%S GMT", absl::FromUnixSeconds(now), absl::UTCTimeZone());
  }
  return text;
}

std::string AddressOf(const PlainStream& socket) {
  error_code ec;
  asio::ip::tcp::endpoint endpoint = socket.remote_endpoint(ec);
  if (ec) return "";
  asio::ip::address address = endpoint.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6()).to_string();
  }
  return address.to_string();
}

template <typename Stream>
class Connection final : public ConnectionBase, public std::enable_shared_from_this<Connection<Stream>> {
 public:
  Connection(Stream stream, std::shared_ptr<asio::ssl::context> tls, std::shared_ptr<HttpShared> shared)
      : tls_(std::move(tls)),
        stream_(std::move(stream)),
        executor_(stream_.get_executor()),
        shared_(std::move(shared)),
        watchdog_(executor_),
        peer_poll_(executor_),
        buffer_(kReadBufferBytes) {
    shared_->connections.fetch_add(1);
  }
  ~Connection() override { shared_->connections.fetch_sub(1); }

  void Start(bool refuse) override {
    auto self = this->shared_from_this();
    asio::co_spawn(
        executor_, [self, refuse] { return self->Run(refuse); },
        [self](std::exception_ptr error) {
          self->Close();
          if (!error) return;
          try {
            std::rethrow_exception(error);
          } catch (const std::exception& e) {
            Log(LogLevel::kError, "connection ended by an exception", {{"what", e.what()}});
          }
        });
  }

  void Drain() override {
    asio::post(executor_, [self = this->shared_from_this()] {
      if (self->idle_) self->Close();
    });
  }
  void Abort() override {
    asio::post(executor_, [self = this->shared_from_this()] { self->Close(); });
  }

 private:
  class Exchange;

  asio::ip::tcp::socket& socket() {
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      return stream_.next_layer();
    } else {
      return stream_;
    }
  }

  // ---- time limits: one timer; when the current deadline passes, the pending operation is cancelled ----

  void SetDeadline(absl::Duration from_now) { SetDeadline(Clock::now() + absl::ToChronoNanoseconds(from_now)); }
  void SetDeadline(Clock::time_point deadline) {
    deadline_ = deadline;
    timed_out_ = false;
    if (!watching_) {
      WaitForDeadline();
    } else if (deadline < watchdog_.expiry()) {
      watchdog_.expires_at(deadline);  // ends the wait, which begins again below
    }
  }
  void ClearDeadline() { deadline_ = Clock::time_point::max(); }
  void WaitForDeadline() {
    watching_ = true;
    watchdog_.expires_at(deadline_);
    watchdog_.async_wait([weak = this->weak_from_this()](error_code) {
      auto self = weak.lock();
      if (!self) return;
      self->watching_ = false;
      if (self->closed_ || self->deadline_ == Clock::time_point::max()) return;
      if (Clock::now() < self->deadline_) return self->WaitForDeadline();
      self->timed_out_ = true;
      self->deadline_ = Clock::time_point::max();
      error_code ignored;
      self->socket().cancel(ignored);
    });
  }

  void Close() {
    if (closed_) return;
    closed_ = true;
    error_code ignored;
    socket().close(ignored);
    watchdog_.cancel();
    StopWatchingPeer();
  }

  // ---- one connection ----

  asio::awaitable<void> Run(bool refuse) {
    error_code ignored;
    socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    if (shared_->options.send_buffer_bytes > 0) {
      socket().set_option(asio::socket_base::send_buffer_size(shared_->options.send_buffer_bytes), ignored);
    }
    peer_ = AddressOf(socket());
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      SetDeadline(shared_->options.header_timeout);
      auto [ec] = co_await stream_.async_handshake(asio::ssl::stream_base::server, kAwait);
      if (ec) co_return;
    }
    if (refuse) {
      co_await Refuse(503, "The gateway has as many connections as it may have. Try again in a moment.");
      co_return;
    }
    for (;;) {
      bool keep = co_await OneRequest();
      if (!keep || closed_) break;
    }
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      if (!closed_ && clean_end_) {
        SetDeadline(absl::Seconds(1));
        auto [ec] = co_await stream_.async_shutdown(kAwait);
        (void)ec;
      }
    }
  }

  // An answer to what could not be read as a request, then the end of the connection.
  asio::awaitable<void> Refuse(int status, absl::string_view message) {
    HttpRequest request;
    request.id = NewRequestId();
    request.received = Clock::now();
    Exchange exchange(this, request, /*http11=*/true, /*keep_alive=*/false);
    HttpReply reply = shared_->handler->TransportError(status, message);
    co_await exchange.Send(std::move(reply));
    co_await Linger();
  }

  // Reads on for a moment after a refusal: closing with unread bytes would reset the connection under the answer.
  asio::awaitable<void> Linger() {
    if (closed_) co_return;
    error_code ignored;
    if constexpr (std::is_same_v<Stream, PlainStream>) socket().shutdown(PlainStream::shutdown_send, ignored);
    SetDeadline(Clock::now() + kLingerTime);
    auto scratch = std::make_unique<std::array<char, 16384>>();
    uint64_t total = 0;
    while (total < kLingerBytes) {
      auto [ec, n] = co_await socket().async_read_some(asio::buffer(*scratch), kAwait);
      if (ec) break;
      total += n;
    }
    Close();
  }

  static std::string NewRequestId() { return absl::StrCat("req_", NewTimeOrderedId().ToHex()); }

  // False: the connection is over.
  asio::awaitable<bool> OneRequest() {
    const HttpServerOptions& options = shared_->options;
    if (buffer_.size() == 0) {
      if (shared_->draining.load()) co_return false;
      idle_ = true;
      SetDeadline(options.idle_timeout);
      auto [ec, n] = co_await stream_.async_read_some(buffer_.prepare(4096), kAwait);
      idle_ = false;
      if (ec) co_return false;
      buffer_.commit(n);
    }
    Clock::time_point received = Clock::now();
    http::request_parser<http::string_body> parser;
    parser.header_limit(static_cast<uint32_t>(options.max_header_bytes));
    parser.body_limit(options.max_body_bytes);
    SetDeadline(options.header_timeout);
    {
      auto [ec, n] = co_await http::async_read_header(stream_, buffer_, parser, kAwait);
      (void)n;
      if (ec) {
        co_await RefuseUnread(ec);
        co_return false;
      }
    }
    HttpRequest request;
    request.id = NewRequestId();
    request.received = received;
    request.peer = peer_;
    const auto& message = parser.get();
    request.method = std::string(message.method_string());
    absl::string_view target(message.target().data(), message.target().size());
    request.path = std::string(target.substr(0, target.find('?')));
    for (const auto& field : message) {
      request.headers.emplace_back(
          absl::AsciiStrToLower(absl::string_view(field.name_string().data(), field.name_string().size())),
          std::string(field.value()));
    }
    const bool http11 = message.version() >= 11;
    const bool keep_alive = message.keep_alive();
    const bool has_body = parser.chunked() || parser.content_length().value_or(0) > 0;
    const uint64_t body_bound = parser.content_length() ? *parser.content_length()
                                : has_body              ? options.max_body_bytes
                                                        : 0;

    std::optional<HttpReply> refusal = shared_->handler->CheckHead(request);
    // Claims memory for the body until the request has been handled.
    BodyClaim claim(shared_.get(), refusal ? 0 : body_bound);
    if (!refusal && !claim.ok()) {
      refusal = shared_->handler->TransportError(503, "The gateway is reading as many request bodies as it may hold.");
    }
    if (refusal && has_body && (parser.chunked() || body_bound > kDiscardBytes)) {
      Exchange exchange(this, request, http11, /*keep_alive=*/false);
      co_await exchange.Send(std::move(*refusal));
      co_await Linger();
      co_return false;
    }
    if (has_body) {
      if (absl::EqualsIgnoreCase(request.Header("expect"), "100-continue")) {
        constexpr absl::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
        auto [ec, n] = co_await asio::async_write(stream_, asio::buffer(kContinue.data(), kContinue.size()), kAwait);
        (void)n;
        if (ec) co_return false;
      }
      SetDeadline(options.body_timeout);
      auto [ec, n] = co_await http::async_read(stream_, buffer_, parser, kAwait);
      (void)n;
      if (ec) {
        co_await RefuseUnread(ec);
        co_return false;
      }
      request.body = std::move(parser.get().body());
    }
    ClearDeadline();

    Exchange exchange(this, request, http11, keep_alive && !shared_->draining.load());
    if (refusal) {
      co_await exchange.Send(std::move(*refusal));
    } else {
      bool failed = false;
      try {
        co_await shared_->handler->Handle(std::move(request), exchange);
      } catch (const std::exception& e) {
        Log(LogLevel::kError, "a request ended by an exception", {{"request", exchange.id()}, {"what", e.what()}});
        failed = true;
      }
      if (failed && !exchange.started()) {
        HttpReply reply = shared_->handler->TransportError(500, "The gateway failed on this request.");
        co_await exchange.Send(std::move(reply));
      }
    }
    StopWatchingPeer();
    ClearDeadline();
    clean_end_ = exchange.complete();
    co_return exchange.complete() && exchange.keep_alive() && !shared_->draining.load();
  }

  asio::awaitable<void> RefuseUnread(error_code ec) {
    if (ec == http::error::body_limit) {
      co_await Refuse(413,
                      absl::StrCat("The request body is larger than ", shared_->options.max_body_bytes, " bytes."));
    } else if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
      co_await Refuse(431,
                      absl::StrCat("The request header is larger than ", shared_->options.max_header_bytes, " bytes."));
    } else if (timed_out_) {
      co_await Refuse(408, "The request did not arrive in time.");
    } else if (ec.category() == http::make_error_code(http::error::bad_method).category() &&
               ec != http::error::end_of_stream && ec != http::error::partial_message) {
      co_await Refuse(400, absl::StrCat("The request is not valid HTTP/1.1: ", ec.message(), "."));
    }
  }

  class BodyClaim {
   public:
    BodyClaim(HttpShared* shared, uint64_t bytes) : shared_(shared), bytes_(bytes) {
      if (bytes_ == 0) return;
      if (shared_->body_bytes.fetch_add(bytes_) + bytes_ > shared_->options.max_bodies_bytes) {
        shared_->body_bytes.fetch_sub(bytes_);
        bytes_ = 0;
        ok_ = false;
      }
    }
    ~BodyClaim() { shared_->body_bytes.fetch_sub(bytes_); }
    BodyClaim(const BodyClaim&) = delete;
    bool ok() const { return ok_; }

   private:
    HttpShared* shared_;
    uint64_t bytes_;
    bool ok_ = true;
  };

  // ---- has the client gone? ----
  // Readable with nothing to read is a closed or reset connection. Bytes there are a pipelined request (or TLS
  // records): they stay where they are, and the kernel's connection state is asked instead.

  void WatchPeer(Wakeup::Handle wakeup) {
    peer_wakeup_ = wakeup;
    peer_watched_ = true;
    ++peer_watch_id_;
    WaitForPeer();
  }
  void StopWatchingPeer() {
    if (!peer_watched_) return;
    peer_watched_ = false;
    ++peer_watch_id_;
    peer_cancel_.emit(asio::cancellation_type::all);
    peer_poll_.cancel();
  }
  void WaitForPeer() {
    socket().async_wait(asio::socket_base::wait_read,
                        asio::bind_cancellation_slot(
                            peer_cancel_.slot(), [weak = this->weak_from_this(), id = peer_watch_id_](error_code ec) {
                              auto self = weak.lock();
                              if (!self || self->peer_watch_id_ != id) return;
                              self->PeerReadable(ec);
                            }));
  }
  void PeerReadable(error_code ec) {
    if (ec == asio::error::operation_aborted) return PollPeer();
    char byte;
    ssize_t n = ec ? 0 : recv(socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0) return PollPeer();
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return WaitForPeer();
    PeerGone();
  }
  void PollPeer() {
    tcp_info info{};
    socklen_t size = sizeof(info);
    if (getsockopt(socket().native_handle(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0 ||
        info.tcpi_state != TCP_ESTABLISHED) {
      return PeerGone();
    }
    peer_poll_.expires_after(kPeerPollInterval);
    peer_poll_.async_wait([weak = this->weak_from_this(), id = peer_watch_id_](error_code) {
      auto self = weak.lock();
      if (self && self->peer_watch_id_ == id) self->PollPeer();
    });
  }
  void PeerGone() {
    peer_gone_ = true;
    peer_wakeup_.Notify();
  }

  std::shared_ptr<asio::ssl::context> tls_;
  Stream stream_;
  asio::any_io_executor executor_;
  std::shared_ptr<HttpShared> shared_;
  std::string peer_;
  asio::steady_timer watchdog_;
  Clock::time_point deadline_ = Clock::time_point::max();
  bool watching_ = false;
  bool timed_out_ = false;
  bool closed_ = false;
  bool idle_ = false;
  bool clean_end_ = false;
  asio::steady_timer peer_poll_;
  asio::cancellation_signal peer_cancel_;
  Wakeup::Handle peer_wakeup_;
  uint64_t peer_watch_id_ = 0;
  bool peer_watched_ = false;
  bool peer_gone_ = false;
  boost::beast::flat_buffer buffer_;
};

template <typename Stream>
class Connection<Stream>::Exchange final : public HttpExchange {
 public:
  Exchange(Connection* connection, const HttpRequest& request, bool http11, bool keep_alive)
      : connection_(connection),
        id_(request.id),
        received_(request.received),
        head_only_(request.method == "HEAD"),
        http11_(http11),
        keep_alive_(keep_alive) {}

  asio::any_io_executor executor() const override { return connection_->executor_; }

  asio::awaitable<bool> Send(HttpReply reply) override {
    started_ = true;
    std::string head = Head(reply);
    absl::StrAppend(&head, "content-length: ", reply.body.size(), "\r\n\r\n");
    if (!head_only_) head += reply.body;
    bool ok = co_await WriteAll(head);
    complete_ = ok;
    co_return ok;
  }

  void StartStream(HttpReply head) override {
    started_ = true;
    // An HTTP/1.0 client gets a body that ends with the connection.
    if (!http11_) keep_alive_ = false;
    pending_head_ = Head(head);
    if (http11_) pending_head_ += "transfer-encoding: chunked\r\n";
    pending_head_ += "\r\n";
  }

  asio::awaitable<bool> Write(absl::string_view data) override {
    std::string out = std::move(pending_head_);
    pending_head_.clear();
    if (http11_) {
      absl::StrAppend(&out, absl::Hex(data.size()), "\r\n", data, "\r\n");
    } else {
      absl::StrAppend(&out, data);
    }
    bool ok = co_await WriteAll(out);
    co_return ok;
  }

  asio::awaitable<bool> FinishStream() override {
    std::string out = std::move(pending_head_);
    pending_head_.clear();
    if (http11_) out += "0\r\n\r\n";
    bool ok = co_await WriteAll(out);
    complete_ = ok;
    co_return ok;
  }

  void WatchClient(Wakeup* wakeup) override { connection_->WatchPeer(wakeup->handle()); }
  bool client_gone() const override { return broken_ || connection_->peer_gone_ || connection_->closed_; }
  bool client_stalled() const override { return stalled_; }

  bool started() const { return started_; }
  bool complete() const { return complete_; }
  bool keep_alive() const { return keep_alive_; }
  const std::string& id() const { return id_; }

 private:
  std::string Head(const HttpReply& reply) const {
    std::string head = absl::StrCat("HTTP/1.1 ", reply.status, " ", ReasonPhrase(reply.status), "\r\n");
    auto elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - received_).count();
    absl::StrAppend(&head, "date: ", HttpDate(), "\r\ncontent-type: ", reply.content_type, "\r\nx-request-id: ", id_,
                    "\r\nopenai-processing-ms: ", elapsed, "\r\nopenai-version: 2020-10-01\r\n");
    for (const auto& [name, value] : reply.headers) absl::StrAppend(&head, name, ": ", value, "\r\n");
    if (!keep_alive_) head += "connection: close\r\n";
    return head;
  }

  asio::awaitable<bool> WriteAll(const std::string& data) {
    if (broken_ || connection_->closed_) co_return false;
    if (data.empty()) co_return true;
    connection_->SetDeadline(connection_->shared_->options.write_timeout);
    auto [ec, n] = co_await asio::async_write(connection_->stream_, asio::buffer(data), kAwait);
    (void)n;
    if (ec) {
      broken_ = true;
      stalled_ = connection_->timed_out_;
    }
    connection_->ClearDeadline();
    co_return !broken_;
  }

  Connection* connection_;
  std::string id_;
  Clock::time_point received_;
  bool head_only_;
  bool http11_;
  bool keep_alive_;
  std::string pending_head_;
  bool started_ = false;
  bool complete_ = false;
  bool broken_ = false;
  bool stalled_ = false;
};

}  // namespace

std::shared_ptr<ConnectionBase> MakeConnection(asio::ip::tcp::socket socket, std::shared_ptr<asio::ssl::context> tls,
                                               std::shared_ptr<HttpShared> shared) {
  if (tls) {
    TlsStream stream(std::move(socket), *tls);
    return std::make_shared<Connection<TlsStream>>(std::move(stream), std::move(tls), std::move(shared));
  }
  return std::make_shared<Connection<PlainStream>>(std::move(socket), nullptr, std::move(shared));
}

}  // namespace gantry::gateway
