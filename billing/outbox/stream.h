// An outgoing connection, plain or TLS, on which every operation ends by one deadline. Blocks; one thread at a time.
//
// Models Boost's SyncReadStream and SyncWriteStream, so that Beast's HTTP reads and writes through it. Inside, each
// call is an asynchronous one that is waited for: the synchronous ones know no time limit.
#pragma once

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/system/system_error.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace gantry::billing {

// Ends what many streams wait for, at once and for good. Thread-safe; outlives its streams.
class StreamStop {
 public:
  void Stop();

 private:
  friend class OutgoingStream;
  void Add(boost::asio::io_context* context);
  void Remove(boost::asio::io_context* context);
  // Makes it ready to run once more, unless all are stopped.
  void Restart(boost::asio::io_context* context);
  absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<boost::asio::io_context*> contexts_ ABSL_GUARDED_BY(mutex_);
};

// A client's TLS: 1.2 or newer, certificates verified against the system's authorities (read when they are first
// needed) and those of a file. Shared by all streams of a sender. Thread-safe.
class ClientTls {
 public:
  // `authority_file`: PEM; empty: none beside the system's. INVALID_ARGUMENT when it cannot be read.
  static absl::StatusOr<std::unique_ptr<ClientTls>> Create(const std::string& authority_file);

 private:
  friend class OutgoingStream;
  boost::asio::ssl::context& Loaded();
  boost::asio::ssl::context context_{boost::asio::ssl::context::tls_client};
  std::once_flag loaded_;
};

class OutgoingStream {
 public:
  using executor_type = boost::beast::tcp_stream::executor_type;

  // `stop` may be null.
  OutgoingStream(absl::Time deadline, StreamStop* stop);
  ~OutgoingStream();
  OutgoingStream(const OutgoingStream&) = delete;
  OutgoingStream& operator=(const OutgoingStream&) = delete;

  // To the first of `addresses` that answers. UNAVAILABLE, DEADLINE_EXCEEDED.
  absl::Status Connect(const std::vector<boost::asio::ip::address>& addresses, uint16_t port);
  // Verifies that the other end is `host`. UNAUTHENTICATED names what is wrong with its certificate.
  absl::Status StartTls(ClientTls* tls, const std::string& host);

  absl::Status WriteAll(absl::string_view bytes);
  // One line without its CRLF or LF. FAILED_PRECONDITION when it is longer than `limit`; UNAVAILABLE at the end.
  absl::StatusOr<std::string> ReadLine(size_t limit);
  // Whether more has come than was read: nobody may speak before TLS begins.
  bool HasUnread() const { return !unread_.empty(); }

  executor_type get_executor() { return tcp_.get_executor(); }
  template <typename Buffers>
  size_t read_some(const Buffers& buffers, boost::system::error_code& error) {
    return Transfer([&](auto& stream, auto done) { stream.async_read_some(buffers, done); }, error);
  }
  template <typename Buffers>
  size_t write_some(const Buffers& buffers, boost::system::error_code& error) {
    return Transfer([&](auto& stream, auto done) { stream.async_write_some(buffers, done); }, error);
  }
  // The stream concepts ask for these too; nothing here calls them.
  template <typename Buffers>
  size_t read_some(const Buffers& buffers) {
    return Throwing([&](auto& error) { return read_some(buffers, error); });
  }
  template <typename Buffers>
  size_t write_some(const Buffers& buffers) {
    return Throwing([&](auto& error) { return write_some(buffers, error); });
  }

  // A failed transfer in words.
  static absl::Status Failed(absl::string_view what, const boost::system::error_code& error);

 private:
  template <typename Operation>
  size_t Transfer(const Operation& operation, boost::system::error_code& error) {
    error = boost::asio::error::operation_aborted;  // when the stream is stopped meanwhile
    size_t count = 0;
    const auto done = [&](boost::system::error_code result, size_t transferred) {
      error = result;
      count = transferred;
    };
    if (tls_.has_value()) {
      operation(*tls_, done);
    } else {
      operation(tcp_, done);
    }
    Run();
    return count;
  }
  template <typename Call>
  static size_t Throwing(const Call& call) {
    boost::system::error_code error;
    const size_t count = call(error);
    if (error) throw boost::system::system_error(error);
    return count;
  }
  void Run();

  StreamStop* const stop_;
  boost::asio::io_context context_;
  boost::beast::tcp_stream tcp_;
  std::optional<boost::asio::ssl::stream<boost::beast::tcp_stream&>> tls_;
  std::string unread_;
};

}  // namespace gantry::billing
