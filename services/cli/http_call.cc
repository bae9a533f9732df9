#include "services/cli/http_call.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace gantry::cli {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using boost::asio::ip::tcp;
using boost::system::error_code;

// Asynchronous calls awaited one by one: the synchronous ones know no time limit.
class Connection {
 public:
  Connection(std::string host, absl::Duration timeout)
      : host_(std::move(host)), timeout_(absl::ToChronoMilliseconds(timeout)), stream_(context_) {}

  error_code Connect() {
    const size_t colon = host_.rfind(':');
    error_code error;
    tcp::resolver resolver(context_);
    const auto addresses =
        resolver.resolve(host_.substr(0, colon), colon == std::string::npos ? "80" : host_.substr(colon + 1), error);
    if (error) return error;
    stream_.expires_after(timeout_);
    stream_.async_connect(addresses, [&error](error_code result, const tcp::endpoint&) { error = result; });
    Run();
    return error;
  }
  error_code Write(http::request<http::string_body>& request) {
    error_code error;
    stream_.expires_after(timeout_);
    http::async_write(stream_, request, [&error](error_code result, size_t) { error = result; });
    Run();
    return error;
  }
  template <typename Parser>
  error_code ReadHeader(Parser& parser) {
    error_code error;
    stream_.expires_after(timeout_);
    http::async_read_header(stream_, buffer_, parser, [&error](error_code result, size_t) { error = result; });
    Run();
    return error;
  }
  template <typename Parser>
  error_code ReadSome(Parser& parser) {
    error_code error;
    stream_.expires_after(timeout_);
    http::async_read_some(stream_, buffer_, parser, [&error](error_code result, size_t) { error = result; });
    Run();
    return error;
  }
  const std::string& host() const { return host_; }

 private:
  void Run() {
    context_.restart();
    context_.run();
  }
  std::string host_;
  std::chrono::milliseconds timeout_;
  boost::asio::io_context context_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
};

}  // namespace

absl::StatusOr<int> HttpCall(const HttpCallOptions& options,
                             const std::function<void(int status, absl::string_view piece)>& on_body) {
  Connection connection(std::string(absl::StripPrefix(options.endpoint, "http://")), options.timeout);
  const auto unavailable = [&](const error_code& error) {
    return absl::UnavailableError(
        absl::StrCat("the gateway at ", options.endpoint, " does not answer: ", error.message()));
  };
  if (const error_code error = connection.Connect()) return unavailable(error);
  http::request<http::string_body> request(options.body.empty() ? http::verb::get : http::verb::post, options.path, 11);
  request.set(http::field::host, connection.host());
  request.set(http::field::connection, "close");
  if (!options.key.empty()) request.set(http::field::authorization, "Bearer " + options.key);
  if (!options.body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = options.body;
  request.prepare_payload();
  if (const error_code error = connection.Write(request)) return unavailable(error);

  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  if (const error_code error = connection.ReadHeader(parser)) return unavailable(error);
  const int status = static_cast<int>(parser.get().result_int());
  while (!parser.is_done()) {
    char piece[8192];
    parser.get().body().data = piece;
    parser.get().body().size = sizeof(piece);
    error_code error = connection.ReadSome(parser);
    if (error == http::error::need_buffer) error = {};  // the piece is full
    const size_t got = sizeof(piece) - parser.get().body().size;
    if (got > 0) on_body(status, absl::string_view(piece, got));
    if (error == beast::error::timeout) return unavailable(error);
    if (error) return absl::DataLossError(absl::StrCat("the reply broke off: ", error.message()));
  }
  return status;
}

}  // namespace gantry::cli
