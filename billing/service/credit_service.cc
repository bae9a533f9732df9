#include <algorithm>
#include <utility>
#include <vector>

#include "billing/lease/lease_desk.h"
#include "billing/ledger/credit.h"
#include "billing/service/services.h"
#include "gantry/v1/billing.grpc.pb.h"

namespace gantry::billing {
namespace {

// A hold that money is short for: everybody who may have some gives back first, then it is tried again. Scopes are
// asked one after the other, each once. Lives until the call has been answered.
class PatientHold : public std::enable_shared_from_this<PatientHold> {
 public:
  using Command = std::function<absl::Status(Database&, CreditScope* short_of)>;
  PatientHold(const Context* context, grpc::ServerUnaryReactor* reactor, Command command)
      : context_(context), reactor_(reactor), command_(std::move(command)) {}

  void Try() {
    context_->store->WriteKeeping(
        [self = shared_from_this()](Database& db) {
          self->short_of_ = {};
          self->lenders_.clear();
          absl::Status status = self->command_(db, &self->short_of_);
          if (!status.ok() && self->short_of_.no != 0 && !self->Asked())
            self->lenders_ = LendersOf(db, self->short_of_);
          return status;
        },
        [self = shared_from_this()](const absl::Status& status) { self->Decide(status); });
  }

 private:
  bool Asked() const {
    return std::any_of(asked_.begin(), asked_.end(), [this](const CreditScope& scope) {
      return scope.kind == short_of_.kind && scope.no == short_of_.no;
    });
  }
  void Decide(const absl::Status& status) {
    if (status.ok() || lenders_.empty()) {
      const bool unreachable = !status.ok() && short_of_.no != 0 && !all_answered_;
      return reactor_->Finish(
          ToGrpcStatus(unreachable ? absl::ResourceExhaustedError(absl::StrCat(
                                         "money lies with a gateway that does not answer; ", status.message()))
                                   : status));
    }
    asked_.push_back(short_of_);
    context_->leases->recalls().CallBack(short_of_, lenders_, [self = shared_from_this()](bool all_answered) {
      self->all_answered_ = self->all_answered_ && all_answered;
      self->Try();
    });
  }

  const Context* const context_;
  grpc::ServerUnaryReactor* const reactor_;
  const Command command_;
  CreditScope short_of_;  // no 0: of nothing
  std::vector<Lender> lenders_;
  std::vector<CreditScope> asked_;
  bool all_answered_ = true;
};

// All of it keeps what usage has read (Store::WriteKeeping): money of accounts is set aside by a Journal, and what else
// is written here (slices, holds, budgets, gateways) is not kept. It comes between any two batches of usage.
class CreditService final : public v1::Credit::CallbackService {
 public:
  explicit CreditService(const Context* context) : context_(context) {}

  grpc::ServerUnaryReactor* GrantSlice(grpc::CallbackServerContext* call, const v1::GrantSliceRequest* request,
                                       v1::GrantSliceResponse* response) override {
    return Run(call, response, [this, request](Database& db) {
      return billing::GrantSlice(db, *request, context_->clock(), context_->leases->Terms());
    });
  }
  grpc::ServerUnaryReactor* ReturnSlice(grpc::CallbackServerContext* call, const v1::ReturnSliceRequest* request,
                                        v1::ReturnSliceResponse* response) override {
    return Run(call, response,
               [this, request](Database& db) { return billing::ReturnSlice(db, *request, context_->clock()); });
  }
  grpc::ServerUnaryReactor* Reserve(grpc::CallbackServerContext* call, const v1::ReserveRequest* request,
                                    v1::HoldResponse* response) override {
    return Patiently(call, response, [this, request](Database& db, CreditScope* short_of) {
      return billing::Reserve(db, *request, context_->clock(), short_of);
    });
  }
  grpc::ServerUnaryReactor* ExtendHold(grpc::CallbackServerContext* call, const v1::ExtendHoldRequest* request,
                                       v1::HoldResponse* response) override {
    return Patiently(call, response, [request](Database& db, CreditScope* short_of) {
      return billing::ExtendHold(db, *request, short_of);
    });
  }
  grpc::ServerUnaryReactor* SettleHold(grpc::CallbackServerContext* call, const v1::SettleHoldRequest* request,
                                       v1::HoldResponse* response) override {
    return Run(call, response, [request](Database& db) { return billing::SettleHold(db, *request); });
  }
  grpc::ServerUnaryReactor* VoidHold(grpc::CallbackServerContext* call, const v1::VoidHoldRequest* request,
                                     v1::HoldResponse* response) override {
    return Run(call, response,
               [this, request](Database& db) { return billing::VoidHold(db, *request, context_->clock()); });
  }

 private:
  template <typename Response, typename Command>
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* call, Response* response, Command command) {
    return Answer(context_->store, &Store::WriteKeeping, call, response, std::move(command));
  }
  template <typename Command>
  grpc::ServerUnaryReactor* Patiently(grpc::CallbackServerContext* call, v1::HoldResponse* response, Command command) {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    std::make_shared<PatientHold>(context_, reactor, [response, command](Database& db, CreditScope* short_of) {
      absl::StatusOr<v1::HoldResponse> result = command(db, short_of);
      if (result.ok()) *response = *std::move(result);
      return result.status();
    })->Try();
    return reactor;
  }

  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeCreditService(const Context* context) {
  return std::make_unique<CreditService>(context);
}

}  // namespace gantry::billing
