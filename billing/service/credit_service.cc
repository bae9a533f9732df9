#include "billing/ledger/credit.h"
#include "billing/service/services.h"
#include "gantry/v1/billing.grpc.pb.h"

namespace gantry::billing {
namespace {

class CreditService final : public v1::Credit::CallbackService {
 public:
  explicit CreditService(const Context* context) : context_(context) {}

  grpc::ServerUnaryReactor* GrantSlice(grpc::CallbackServerContext* call, const v1::GrantSliceRequest* request,
                                       v1::GrantSliceResponse* response) override {
    return Run(call, response,
               [this, request](Database& db) { return billing::GrantSlice(db, *request, context_->clock()); });
  }
  grpc::ServerUnaryReactor* ReturnSlice(grpc::CallbackServerContext* call, const v1::ReturnSliceRequest* request,
                                        v1::ReturnSliceResponse* response) override {
    return Run(call, response,
               [this, request](Database& db) { return billing::ReturnSlice(db, *request, context_->clock()); });
  }
  grpc::ServerUnaryReactor* Reserve(grpc::CallbackServerContext* call, const v1::ReserveRequest* request,
                                    v1::HoldResponse* response) override {
    return Run(call, response,
               [this, request](Database& db) { return billing::Reserve(db, *request, context_->clock()); });
  }
  grpc::ServerUnaryReactor* ExtendHold(grpc::CallbackServerContext* call, const v1::ExtendHoldRequest* request,
                                       v1::HoldResponse* response) override {
    return Run(call, response, [request](Database& db) { return billing::ExtendHold(db, *request); });
  }
  grpc::ServerUnaryReactor* SettleHold(grpc::CallbackServerContext* call, const v1::SettleHoldRequest* request,
                                       v1::HoldResponse* response) override {
    return Run(call, response, [request](Database& db) { return billing::SettleHold(db, *request); });
  }
  grpc::ServerUnaryReactor* VoidHold(grpc::CallbackServerContext* call, const v1::VoidHoldRequest* request,
                                     v1::HoldResponse* response) override {
    return Run(call, response, [request](Database& db) { return billing::VoidHold(db, *request); });
  }

 private:
  template <typename Response, typename Command>
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* call, Response* response, Command command) {
    return Answer(context_->store, &Store::Write, call, response, std::move(command));
  }

  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeCreditService(const Context* context) {
  return std::make_unique<CreditService>(context);
}

}  // namespace gantry::billing
