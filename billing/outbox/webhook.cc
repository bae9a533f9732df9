#include "billing/outbox/webhook.h"

#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "services/common/lifecycle.h"

namespace gantry::billing {
namespace {

namespace http = boost::beast::http;

constexpr uint32_t kHeaderLimit = 8 << 10;

}  // namespace

absl::StatusOr<std::unique_ptr<WebhookSender>> WebhookSender::Create(const WebhookOptions& options) {
  absl::StatusOr<AddressPolicy> policy = AddressPolicy::Parse(options.private_networks);
  if (!policy.ok()) return Annotate(policy.status(), "webhook-private-networks");
  GANTRY_ASSIGN_OR_RETURN(std::unique_ptr<ClientTls> tls, ClientTls::Create(options.authority_file));
  return std::unique_ptr<WebhookSender>(new WebhookSender(options, *std::move(policy), std::move(tls)));
}

SendResult WebhookSender::Send(const WebhookTarget& target, const WebhookRequest& request, StreamStop* stop) const {
  return {Annotate(TrySend(target, request, stop), absl::StrCat("webhook at ", target.authority)), false};
}

absl::Status WebhookSender::TrySend(const WebhookTarget& target, const WebhookRequest& request,
                                    StreamStop* stop) const {
  const absl::Time deadline = absl::Now() + options_.timeout;
  GANTRY_ASSIGN_OR_RETURN(const std::vector<boost::asio::ip::address> addresses, options_.resolve(target.host));
  // One that may not be called among others that may is a trap, not an alternative.
  for (const boost::asio::ip::address& address : addresses) {
    GANTRY_RETURN_IF_ERROR(policy_.Check(address, target.tls));
  }
  OutgoingStream stream(deadline, stop);
  GANTRY_RETURN_IF_ERROR(stream.Connect(addresses, target.port));
  if (target.tls) GANTRY_RETURN_IF_ERROR(stream.StartTls(tls_.get(), target.host));

  http::request<http::string_body> message(http::verb::post, target.path, 11);
  message.set(http::field::host, target.authority);
  message.set(http::field::user_agent, absl::StrCat("gantry-billing/", BuildVersion()));
  message.set(http::field::content_type, "application/json");
  message.set(http::field::connection, "close");
  for (const auto& [name, value] : request.headers) message.set(name, value);
  message.body() = request.body;
  message.prepare_payload();
  boost::system::error_code error;
  http::write(stream, message, error);
  if (error) return OutgoingStream::Failed("sending", error);

  // Only the status counts; what comes after the header is nobody's to read.
  boost::beast::flat_buffer buffer(kHeaderLimit);
  http::response_parser<http::empty_body> parser;
  parser.header_limit(kHeaderLimit);
  http::read_header(stream, buffer, parser, error);
  if (error) return OutgoingStream::Failed("waiting for the answer", error);
  const int status = static_cast<int>(parser.get().result_int());
  if (status / 100 == 2) return absl::OkStatus();
  if (status / 100 == 3) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the answer is ", status, ", a redirect, and none is followed; register the URL that it leads to"));
  }
  return absl::UnavailableError(absl::StrCat("the answer is ", status));
}

}  // namespace gantry::billing
