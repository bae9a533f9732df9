// billing's RPC services over the store. Handlers only translate: parse, hand a command or a query to the store, answer
// from its `done`. The rules are in ledger, catalog, usage, invoice and audit.
#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>

#include "billing/service/feed.h"
#include "billing/store/clock.h"
#include "billing/store/store.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/secret.h"

namespace gantry::billing {

class BillingMetrics;

// What all services share; outlives them.
struct Context {
  Store* store = nullptr;
  Clock clock;
  Secret pepper;
  BillingMetrics* metrics = nullptr;
  Feed<v1::KeyEvent>* keys = nullptr;
  Feed<v1::PriceEvent>* prices = nullptr;
};

std::unique_ptr<grpc::Service> MakeCreditService(const Context* context);
std::unique_ptr<grpc::Service> MakeUsageService(const Context* context);
std::unique_ptr<grpc::Service> MakeCatalogService(const Context* context);
std::unique_ptr<grpc::Service> MakeAdminService(const Context* context);

}  // namespace gantry::billing
