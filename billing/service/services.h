// billing's RPC services over the store. Handlers only translate: parse, hand a command or a query to the store, answer
// from its `done`. The rules are in ledger, catalog, usage, invoice and audit.
#pragma once

#include <grpcpp/impl/service_type.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "billing/service/feed.h"
#include "billing/store/clock.h"
#include "billing/store/store.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/secret.h"

namespace gantry::billing {

class Auditor;
class BillingMetrics;
class GatewayClocks;
class LeaseDesk;
class ReceiptDesk;
class ReceiptKeyRing;

// What all services share; outlives them.
struct Context {
  Store* store = nullptr;
  std::string data_dir;
  bool command_log = false;                    // one is kept
  std::atomic<int64_t>* covered_us = nullptr;  // the newest confirmed backup holds what was acknowledged before
  Clock clock;
  Secret pepper;
  bool sends_mail = false;  // there is an SMTP server
  BillingMetrics* metrics = nullptr;
  Feed<v1::KeyEvent>* keys = nullptr;
  Feed<v1::PriceEvent>* prices = nullptr;
  LeaseDesk* leases = nullptr;
  GatewayClocks* gateway_clocks = nullptr;
  int64_t freed_after_us = 0;  // after a gateway's newer epoch began, what older ones had set aside is freed (R9)
  ReceiptDesk* receipts = nullptr;
  ReceiptKeyRing* receipt_ring = nullptr;
};

// An id of 16 bytes for the audit log; "?" when it is none.
std::string HexOf(const std::string& id);

// Answers a unary call of a gateway or a worker with what `command` gives. `submit`: &Store::Write for commands,
// &Store::Read for queries. Administrative calls: billing/service/admin_call.h.
template <typename Response, typename Command>
grpc::ServerUnaryReactor* Answer(Store* store, void (Store::*submit)(Store::Command, Store::Done),
                                 grpc::CallbackServerContext* call, Response* response, Command command) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  (store->*submit)(
      [response, command](Database& db) {
        absl::StatusOr<Response> result = command(db);
        if (result.ok()) *response = *std::move(result);
        return result.status();
      },
      [reactor](const absl::Status& status) { reactor->Finish(ToGrpcStatus(status)); });
  return reactor;
}

std::unique_ptr<grpc::Service> MakeCreditService(const Context* context);
std::unique_ptr<grpc::Service> MakeUsageService(const Context* context);
std::unique_ptr<grpc::Service> MakeCatalogService(const Context* context);
std::unique_ptr<grpc::Service> MakeAdminService(const Context* context);
std::unique_ptr<grpc::Service> MakeLeaseService(const Context* context);
std::unique_ptr<grpc::Service> MakeGatewayAdminService(const Context* context);
std::unique_ptr<grpc::Service> MakeReceiptService(const Context* context);
std::unique_ptr<grpc::Service> MakeUserService(const Context* context);
std::unique_ptr<grpc::Service> MakeNotificationService(const Context* context);
std::unique_ptr<grpc::Service> MakeQuoteService(const Context* context);
std::unique_ptr<grpc::Service> MakeClosingService(const Context* context);
std::unique_ptr<grpc::Service> MakeInvoiceService(const Context* context);
std::unique_ptr<grpc::Service> MakeAuditService(const Context* context, const Auditor* auditor);

}  // namespace gantry::billing
