#include <memory>

#include "billing/catalog/keys.h"
#include "billing/closing/closing.h"
#include "billing/service/admin_call.h"
#include "billing/service/services.h"
#include "gantry/v1/closing.grpc.pb.h"

namespace gantry::billing {
namespace {

class ClosingService final : public v1::ClosingAdmin::CallbackService {
 public:
  explicit ClosingService(const Context* context) : context_(context) {}

  grpc::ServerUnaryReactor* CloseParty(grpc::CallbackServerContext* call, const v1::ClosePartyRequest* request,
                                       v1::Closing* response) override {
    return DoOnce(context_, call, request, response, request->party_name(), request->reason(),
                  [request](Database& db, Change& change) -> absl::StatusOr<v1::Closing> {
                    GANTRY_ASSIGN_OR_RETURN(v1::Closing closing, billing::CloseParty(db, *request, change.now_us));
                    change.keys = KeyRecordsOfParty(db, *Id16::FromBytes(closing.party_id()));
                    return closing;
                  });
  }
  grpc::ServerUnaryReactor* GetClosing(grpc::CallbackServerContext* call, const v1::GetClosingRequest* request,
                                       v1::Closing* response) override {
    return Ask(context_, call, request, response,
               [request](Database& db, const Caller&) { return billing::GetClosing(db, *request); });
  }

 private:
  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeClosingService(const Context* context) {
  return std::make_unique<ClosingService>(context);
}

}  // namespace gantry::billing
