#include <memory>
#include <optional>

#include "absl/strings/match.h"
#include "billing/catalog/parties.h"
#include "billing/outbox/outbox.h"
#include "billing/outbox/signature.h"
#include "billing/parties/party_tree.h"
#include "billing/service/admin_call.h"
#include "billing/service/services.h"
#include "gantry/v1/notification.grpc.pb.h"

namespace gantry::billing {
namespace {

constexpr uint64_t kOverlapMaxMs = 30ull * 86'400'000;

v1::Endpoint ToProto(const Endpoint& endpoint, const std::string& party_name) {
  v1::Endpoint out;
  out.set_endpoint_id(endpoint.endpoint_id.ToBytes());
  out.set_party_name(party_name);
  out.set_target(endpoint.target);
  for (const std::string& topic : endpoint.topics) out.add_topics(topic);
  out.set_created_us(endpoint.created_us);
  return out;
}

absl::StatusOr<std::string> NameOf(Database& db, const Id16& party_id) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyById(db, party_id));
  return party.name;
}

absl::StatusOr<v1::OutboxItem> ToProto(Database& db, const OutboxRow& row) {
  v1::OutboxItem item;
  item.set_seq(row.seq);
  item.set_message_id(row.message_id.ToBytes());
  item.set_topic(row.topic);
  GANTRY_ASSIGN_OR_RETURN(*item.mutable_party_name(), NameOf(db, row.party_id));
  if (row.endpoint_id.has_value()) {
    const absl::StatusOr<Endpoint> endpoint = FindEndpoint(db, *row.endpoint_id);
    item.set_target(endpoint.ok() ? endpoint->target : "(removed)");
  }
  item.set_state(static_cast<v1::OutboxState>(row.state));
  item.set_attempts(row.attempts);
  item.set_created_us(row.created_us);
  item.set_next_us(row.next_us);
  item.set_ended_us(row.ended_us);
  item.set_last_error(row.last_error);
  item.set_payload(row.payload);
  return item;
}

absl::StatusOr<Id16> EndpointId(const std::string& bytes) {
  absl::StatusOr<Id16> id = Id16::FromBytes(bytes);
  if (!id.ok()) return absl::InvalidArgumentError(absl::StrCat("endpoint_id: ", id.status().message()));
  return id;
}

class NotificationService final : public v1::NotificationAdmin::CallbackService {
 public:
  explicit NotificationService(const Context* context) : context_(context) {}

  grpc::ServerUnaryReactor* AddEndpoint(grpc::CallbackServerContext* call, const v1::AddEndpointRequest* request,
                                        v1::EndpointSecret* response) override {
    return DoOnce<v1::AddEndpointRequest, v1::EndpointSecret>(
        context_, call, request, response, request->party_name(), request->target(),
        [this, request](Database& db, Change& change) -> absl::StatusOr<v1::EndpointSecret> {
          GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request->party_name()));
          if (absl::StartsWith(request->target(), "mailto:") && !context_->sends_mail) {
            return absl::FailedPreconditionError("target: billing sends no mail; start it with an smtp-server first");
          }
          GANTRY_ASSIGN_OR_RETURN(
              const Endpoint endpoint,
              billing::AddEndpoint(db, party.party_id, request->target(),
                                   {request->topics().begin(), request->topics().end()}, change.now_us));
          v1::EndpointSecret answer;
          *answer.mutable_endpoint() = ToProto(endpoint, party.name);
          return answer;
        },
        [this](v1::EndpointSecret* answer) { AddSecret(answer); });
  }
  grpc::ServerUnaryReactor* ListEndpoints(grpc::CallbackServerContext* call, const v1::ListEndpointsRequest* request,
                                          v1::ListEndpointsResponse* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) -> absl::StatusOr<v1::ListEndpointsResponse> {
                 GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request->party_name()));
                 v1::ListEndpointsResponse answer;
                 for (const Endpoint& endpoint : billing::ListEndpoints(db, party.party_id)) {
                   *answer.add_endpoints() = ToProto(endpoint, party.name);
                 }
                 return answer;
               });
  }
  grpc::ServerUnaryReactor* RemoveEndpoint(grpc::CallbackServerContext* call, const v1::RemoveEndpointRequest* request,
                                           v1::Endpoint* response) override {
    return DoOnce(context_, call, request, response, HexOf(request->endpoint_id()), "",
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::Endpoint> {
                    GANTRY_ASSIGN_OR_RETURN(const Id16 id, EndpointId(request->endpoint_id()));
                    GANTRY_ASSIGN_OR_RETURN(const Endpoint endpoint, billing::RemoveEndpoint(db, id, change.now_us));
                    GANTRY_ASSIGN_OR_RETURN(const std::string party, NameOf(db, endpoint.party_id));
                    return ToProto(endpoint, party);
                  });
  }
  grpc::ServerUnaryReactor* RotateEndpointSecret(grpc::CallbackServerContext* call,
                                                 const v1::RotateEndpointSecretRequest* request,
                                                 v1::EndpointSecret* response) override {
    return DoOnce<v1::RotateEndpointSecretRequest, v1::EndpointSecret>(
        context_, call, request, response, HexOf(request->endpoint_id()), "",
        [request](Database& db, Change& change) -> absl::StatusOr<v1::EndpointSecret> {
          GANTRY_ASSIGN_OR_RETURN(const Id16 id, EndpointId(request->endpoint_id()));
          if (request->overlap_ms() > kOverlapMaxMs) {
            return absl::InvalidArgumentError(absl::StrCat("overlap_ms: expected at most ", kOverlapMaxMs));
          }
          GANTRY_ASSIGN_OR_RETURN(
              const Endpoint endpoint,
              billing::RotateEndpointSecret(db, id, static_cast<int64_t>(request->overlap_ms()) * 1000, change.now_us));
          GANTRY_ASSIGN_OR_RETURN(const std::string party, NameOf(db, endpoint.party_id));
          v1::EndpointSecret answer;
          *answer.mutable_endpoint() = ToProto(endpoint, party);
          answer.set_secret_number(endpoint.secret_number);
          return answer;
        },
        [this](v1::EndpointSecret* answer) { AddSecret(answer); });
  }
  grpc::ServerUnaryReactor* TestEndpoint(grpc::CallbackServerContext* call, const v1::TestEndpointRequest* request,
                                         v1::OutboxItem* response) override {
    return DoOnce(context_, call, request, response, HexOf(request->endpoint_id()), "",
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::OutboxItem> {
                    GANTRY_ASSIGN_OR_RETURN(const Id16 id, EndpointId(request->endpoint_id()));
                    GANTRY_ASSIGN_OR_RETURN(const Endpoint endpoint, FindEndpoint(db, id));
                    const OutboxMessage message{.topic = "test",
                                                .party_id = endpoint.party_id,
                                                .title = "A test message",
                                                .text = "Messages arrive here. Nothing has happened."};
                    GANTRY_ASSIGN_OR_RETURN(const Id16 message_id, EnqueueTo(db, message, id, change.now_us));
                    GANTRY_ASSIGN_OR_RETURN(const OutboxRow row, FindOutboxRow(db, message_id, id));
                    return ToProto(db, row);
                  });
  }
  grpc::ServerUnaryReactor* ListOutbox(grpc::CallbackServerContext* call, const v1::ListOutboxRequest* request,
                                       v1::ListOutboxResponse* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) -> absl::StatusOr<v1::ListOutboxResponse> {
                 GANTRY_ASSIGN_OR_RETURN(const int64_t size, PageSize(request->page_size()));
                 std::optional<OutboxState> state;
                 if (request->state() != v1::OUTBOX_STATE_UNSPECIFIED) {
                   state = static_cast<OutboxState>(request->state());
                 }
                 v1::ListOutboxResponse answer;
                 for (const OutboxRow& row : billing::ListOutbox(db, state, request->before_seq(), size)) {
                   GANTRY_ASSIGN_OR_RETURN(*answer.add_items(), ToProto(db, row));
                 }
                 return answer;
               });
  }
  grpc::ServerUnaryReactor* RetryOutbox(grpc::CallbackServerContext* call, const v1::RetryOutboxRequest* request,
                                        v1::RetryOutboxResponse* response) override {
    return DoOnce(context_, call, request, response, absl::StrCat(request->seq()), "",
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::RetryOutboxResponse> {
                    v1::RetryOutboxResponse answer;
                    GANTRY_ASSIGN_OR_RETURN(const int64_t messages, RetryParked(db, request->seq(), change.now_us));
                    answer.set_messages(messages);
                    return answer;
                  });
  }

 private:
  // Derived, and so the same for a repeat of the call; never stored.
  void AddSecret(v1::EndpointSecret* answer) const {
    if (absl::StartsWith(answer->endpoint().target(), "mailto:")) return;
    const absl::StatusOr<Id16> id = Id16::FromBytes(answer->endpoint().endpoint_id());
    if (!id.ok()) return;
    const int64_t number = std::max<int64_t>(answer->secret_number(), 1);
    answer->set_secret(std::string(WebhookSecret(context_->pepper, *id, number).Reveal()));
  }

  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeNotificationService(const Context* context) {
  return std::make_unique<NotificationService>(context);
}

}  // namespace gantry::billing
