#include "billing/lease/lease_desk.h"
#include "billing/ledger/gateways.h"
#include "billing/service/admin_call.h"
#include "billing/service/services.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/gateway_admin.grpc.pb.h"

namespace gantry::billing {
namespace {

class GatewayAdminService final : public v1::GatewayAdmin::CallbackService {
 public:
  explicit GatewayAdminService(const Context* context) : context_(context) {}

  grpc::ServerUnaryReactor* ListGateways(grpc::CallbackServerContext* call, const v1::ListGatewaysRequest* request,
                                         v1::ListGatewaysResponse* response) override {
    return Ask(context_, call, request, response,
               [this](Database& db, const Caller&) -> absl::StatusOr<v1::ListGatewaysResponse> {
                 v1::ListGatewaysResponse list;
                 for (v1::GatewayStatus& status : billing::ListGateways(db, context_->freed_after_us)) {
                   AddPresence(&status);
                   *list.add_gateways() = std::move(status);
                 }
                 return list;
               });
  }

  grpc::ServerUnaryReactor* ForgetGateway(grpc::CallbackServerContext* call, const v1::ForgetGatewayRequest* request,
                                          v1::GatewayStatus* response) override {
    const absl::StatusOr<Id16> id = Id16::FromBytes(request->gateway_id());
    return DoOnce(
        context_, call, request, response, HexOf(request->gateway_id()), "",
        [this, id](Database& db, Change& change) -> absl::StatusOr<v1::GatewayStatus> {
          if (!id.ok()) return absl::InvalidArgumentError(absl::StrCat("gateway_id: ", id.status().message()));
          if (context_->leases->IsAttached(*id)) {
            return absl::FailedPreconditionError(
                absl::StrCat("gateway ", id->ToHex(), " is attached: it is not lost. Stop it, then try again"));
          }
          GANTRY_RETURN_IF_ERROR(billing::ForgetGateway(db, *id, change.now_us));
          return FindGateway(db, *id, context_->freed_after_us);
        },
        std::function<void(v1::GatewayStatus*)>([this, id](v1::GatewayStatus* status) {
          context_->leases->Forget(*id);
          AddPresence(status);
        }));
  }

 private:
  void AddPresence(v1::GatewayStatus* status) const {
    const absl::StatusOr<Id16> id = Id16::FromBytes(status->gateway_id());
    if (!id.ok()) return;
    status->set_attached(context_->leases->IsAttached(*id));
    status->set_alone(context_->leases->IsAlone(*id));
  }

  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeGatewayAdminService(const Context* context) {
  return std::make_unique<GatewayAdminService>(context);
}

}  // namespace gantry::billing
