// How every administrative call is answered: for whom it is made is found out and judged (billing/people/access.h) in
// the transaction that answers it, so that a right that was taken away is gone with the next call. What changes
// something happens once under its idempotency key and leaves an audit row that names the caller.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "billing/catalog/admin_log.h"
#include "billing/catalog/plans.h"
#include "billing/people/access.h"
#include "billing/service/services.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/grpc_status.h"

namespace gantry::billing {

// The token that the call was made with; empty: the administrator's.
inline std::string UserTokenOf(const grpc::CallbackServerContext& call) {
  const auto found = call.client_metadata().find("gantry-user");
  return found == call.client_metadata().end() ? "" : std::string(found->second.data(), found->second.size());
}

// Inside the transaction that answers `request`.
inline absl::StatusOr<Caller> AdmitCaller(Database& db, const Context* context, const std::string& token,
                                          const google::protobuf::Message& request) {
  GANTRY_ASSIGN_OR_RETURN(Caller caller, CallerOf(db, context->pepper, token));
  GANTRY_RETURN_IF_ERROR(Authorize(db, caller, request));
  return caller;
}

// What a change gets beside its request, and what it leaves to be told.
struct Change {
  int64_t now_us = 0;
  Caller caller;
  // Gateways hear of these once they are durable.
  std::vector<v1::KeyRecord> keys;
  std::vector<v1::TenantPrices> prices;
};

// Gateways hear the prices of one party, or (0) of all who buy.
inline absl::Status TellPrices(Database& db, int64_t party_no, Change* change) {
  GANTRY_ASSIGN_OR_RETURN(change->prices, CurrentPrices(db, party_no, change->now_us));
  return absl::OkStatus();
}

// Answers with what `query(db, caller)` gives.
template <typename Request, typename Response, typename Query>
grpc::ServerUnaryReactor* Ask(const Context* context, grpc::CallbackServerContext* call, const Request* request,
                              Response* response, Query query) {
  return Answer(context->store, &Store::Read, call, response,
                [=, token = UserTokenOf(*call)](Database& db) -> absl::StatusOr<Response> {
                  GANTRY_ASSIGN_OR_RETURN(const Caller caller, AdmitCaller(db, context, token, *request));
                  return query(db, caller);
                });
}

// Answers with what `run(db, change)` gives, once. `object` and `detail` are for the audit log: what it is about, and
// never a secret. `after(response)` (may be null) completes the answer once it is durable.
template <typename Request, typename Response, typename Run>
grpc::ServerUnaryReactor* DoOnce(const Context* context, grpc::CallbackServerContext* call, const Request* request,
                                 Response* response, std::string object, std::string detail, Run run,
                                 std::function<void(Response*)> after = nullptr) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  auto change = std::make_shared<Change>();
  context->store->Write(
      [=, token = UserTokenOf(*call)](Database& db) -> absl::Status {
        *change = {.now_us = context->clock()};
        GANTRY_ASSIGN_OR_RETURN(change->caller, AdmitCaller(db, context, token, *request));
        const std::string method(absl::StripSuffix(request->GetDescriptor()->name(), "Request"));
        return Once(db,
                    {.method = method.c_str(),
                     .actor = change->caller.actor,
                     .idempotency_key = request->idempotency_key(),
                     .object = object,
                     .detail = detail,
                     .now_us = change->now_us,
                     .request = request},
                    response, [&]() -> absl::Status {
                      GANTRY_ASSIGN_OR_RETURN(*response, run(db, *change));
                      return absl::OkStatus();
                    });
      },
      [=](const absl::Status& status) {
        if (status.ok()) {
          for (v1::KeyRecord& key : change->keys) {
            v1::KeyEvent event;
            *event.mutable_upsert() = std::move(key);
            context->keys->Publish(std::move(event));
          }
          for (v1::TenantPrices& prices : change->prices) {
            v1::PriceEvent event;
            *event.mutable_upsert() = std::move(prices);
            context->prices->Publish(std::move(event));
          }
          if (after) after(response);
        }
        reactor->Finish(ToGrpcStatus(status));
      });
  return reactor;
}

}  // namespace gantry::billing
