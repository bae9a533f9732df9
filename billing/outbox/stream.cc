#include "billing/outbox/stream.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include <boost/asio/ssl/error.hpp>
#include <boost/beast/core/error.hpp>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

}  // namespace

void StreamStop::Stop() {
  absl::MutexLock lock(&mutex_);
  stopped_ = true;
  for (asio::io_context* context : contexts_) context->stop();
}

void StreamStop::Add(asio::io_context* context) {
  absl::MutexLock lock(&mutex_);
  contexts_.insert(context);
  if (stopped_) context->stop();
}

void StreamStop::Restart(asio::io_context* context) {
  absl::MutexLock lock(&mutex_);
  if (!stopped_) context->restart();
}

void StreamStop::Remove(asio::io_context* context) {
  absl::MutexLock lock(&mutex_);
  contexts_.erase(context);
}

absl::StatusOr<std::unique_ptr<ClientTls>> ClientTls::Create(const std::string& authority_file) {
  auto tls = std::make_unique<ClientTls>();
  SSL_CTX_set_min_proto_version(tls->context_.native_handle(), TLS1_2_VERSION);
  tls->context_.set_verify_mode(asio::ssl::verify_peer);
  if (authority_file.empty()) return tls;
  error_code error;
  tls->context_.load_verify_file(authority_file, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat(authority_file, ": ", error.message(), "; expected certificates in PEM"));
  }
  return tls;
}

asio::ssl::context& ClientTls::Loaded() {
  std::call_once(loaded_, [this] {
    error_code error;
    context_.set_default_verify_paths(error);
    if (error) {
      Log(LogLevel::kError, "the system's certificate authorities cannot be read", {{"error", error.message()}});
    }
  });
  return context_;
}

OutgoingStream::OutgoingStream(absl::Time deadline, StreamStop* stop) : stop_(stop), tcp_(context_) {
  const absl::Duration left = deadline - absl::Now();
  tcp_.expires_after(absl::ToChronoMilliseconds(std::max(left, absl::Milliseconds(1))));
  if (stop_ != nullptr) stop_->Add(&context_);
}

OutgoingStream::~OutgoingStream() {
  if (stop_ != nullptr) stop_->Remove(&context_);
}

void OutgoingStream::Run() {
  if (stop_ == nullptr) {
    context_.restart();
  } else {
    stop_->Restart(&context_);
  }
  context_.run();
}

absl::Status OutgoingStream::Failed(absl::string_view what, const error_code& error) {
  if (error == boost::beast::error::timeout) return absl::DeadlineExceededError(absl::StrCat(what, ": too slow"));
  return absl::UnavailableError(absl::StrCat(what, ": ", error.message()));
}

absl::Status OutgoingStream::Connect(const std::vector<asio::ip::address>& addresses, uint16_t port) {
  error_code error = asio::error::host_not_found;
  for (const asio::ip::address& address : addresses) {
    boost::system::error_code ignored;
    tcp_.socket().close(ignored);  // of a try before
    error = asio::error::operation_aborted;
    tcp_.async_connect(asio::ip::tcp::endpoint(address, port), [&](error_code result) { error = result; });
    Run();
    if (!error) return absl::OkStatus();
    if (error == boost::beast::error::timeout) break;
  }
  return Failed("connecting", error);
}

absl::Status OutgoingStream::StartTls(ClientTls* tls, const std::string& host) {
  tls_.emplace(tcp_, tls->Loaded());
  SSL* const handle = tls_->native_handle();
  X509_VERIFY_PARAM* const wanted = SSL_get0_param(handle);
  X509_VERIFY_PARAM_set_hostflags(wanted, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  error_code error;
  asio::ip::make_address(host, error);
  const bool is_name = static_cast<bool>(error);
  const bool set = is_name ? X509_VERIFY_PARAM_set1_host(wanted, host.data(), host.size()) == 1 &&
                                 SSL_set_tlsext_host_name(handle, host.c_str()) == 1
                           : X509_VERIFY_PARAM_set1_ip_asc(wanted, host.c_str()) == 1;
  if (!set) return absl::InternalError(absl::StrCat("TLS cannot be asked to verify ", host));
  error = asio::error::operation_aborted;
  tls_->async_handshake(asio::ssl::stream_base::client, [&](error_code result) { error = result; });
  Run();
  if (!error) return absl::OkStatus();
  if (error.category() != asio::error::get_ssl_category()) return Failed("TLS handshake", error);
  const long verdict = SSL_get_verify_result(handle);
  return absl::UnauthenticatedError(absl::StrCat(
      "TLS with ", host, ": ", verdict == X509_V_OK ? error.message() : X509_verify_cert_error_string(verdict)));
}

absl::Status OutgoingStream::WriteAll(absl::string_view bytes) {
  while (!bytes.empty()) {
    error_code error;
    const size_t written = write_some(asio::buffer(bytes.data(), bytes.size()), error);
    if (error) return Failed("writing", error);
    bytes.remove_prefix(written);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> OutgoingStream::ReadLine(size_t limit) {
  for (;;) {
    const size_t end = unread_.find('\n');
    if (end != std::string::npos && end <= limit) {
      std::string line = unread_.substr(0, end);
      unread_.erase(0, end + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return line;
    }
    if (unread_.size() > limit) {
      return absl::FailedPreconditionError(absl::StrCat("a line of more than ", limit, " bytes came"));
    }
    char piece[1024];
    error_code error;
    const size_t got = read_some(asio::buffer(piece), error);
    if (error) return Failed("reading", error);
    unread_.append(piece, got);
  }
}

}  // namespace gantry::billing
