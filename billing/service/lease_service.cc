#include <utility>

#include "billing/lease/lease_desk.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/gateways.h"
#include "billing/service/services.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/lease.grpc.pb.h"
#include "services/common/order_line.h"

namespace gantry::billing {
namespace {

// What outlives the reactor: the desk may send to a stream that is ending by itself. Held until the books were asked.
class Line final : public GatewayLine {
 public:
  using Orders = OrderLine<v1::GatewayReport, v1::GatewayOrder>;
  explicit Line(Orders::Reactor* reactor)
      : orders_(
            reactor,
            {.order_limit = 10'000, .not_read = "the gateway does not read its orders; attach again", .held = true}) {}
  void Send(v1::GatewayOrder order) override { orders_.Send(std::move(order)); }
  void Close(const absl::Status& status) override { orders_.Close(status); }
  void Release() { orders_.Release(); }
  void WriteDone(bool ok) {
    // What cannot be written ends it, without waiting for OnCancel.
    if (!ok) orders_.Close(absl::OkStatus());
    orders_.WriteDone(ok);
  }

 private:
  Orders orders_;
};

class AttachReactor final : public grpc::ServerBidiReactor<v1::GatewayReport, v1::GatewayOrder> {
 public:
  explicit AttachReactor(const Context* context) : context_(context), line_(std::make_shared<Line>(this)) {
    StartRead(&report_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::OkStatus());
    if (!attached_) return Enter();
    if (report_.has_leaving()) Leave();
    context_->leases->Take(gateway_, report_);
    StartRead(&report_);
  }
  void OnWriteDone(bool ok) override { line_->WriteDone(ok); }
  void OnCancel() override { line_->Close(absl::CancelledError("the gateway left")); }
  void OnDone() override {
    if (attached_) context_->leases->Detach(gateway_, line_.get());
    delete this;
  }

 private:
  // No read is outstanding while the books are asked.
  void Enter() {
    absl::StatusOr<Id16> gateway = Id16::FromBytes(report_.hello().gateway_id());
    if (!report_.has_hello() || !gateway.ok() || gateway->IsZero()) {
      return End(absl::InvalidArgumentError("the first report is hello, with a gateway_id of 16 bytes"));
    }
    gateway_ = *gateway;
    context_->store->Write(
        [this](Database& db) -> absl::Status {
          GANTRY_ASSIGN_OR_RETURN(gateway_no_,
                                  EnterEpoch(db, gateway_, report_.hello().gateway_epoch(), context_->clock()));
          NoteReturned(db, gateway_no_);
          return absl::OkStatus();
        },
        [this](absl::Status status) {
          if (status.ok()) status = context_->leases->Attach(gateway_, report_.hello().gateway_epoch(), line_);
          if (!status.ok()) return End(status);
          attached_ = true;
          const std::shared_ptr<Line> line = line_;
          StartRead(&report_);
          line->Release();  // this object may be gone after it
        });
  }
  // Nothing of this object after it.
  void End(const absl::Status& status) {
    const std::shared_ptr<Line> line = line_;
    line->Close(status);
    line->Release();
  }
  void Leave() {
    context_->store->Write(
        [gateway_no = gateway_no_, now_us = context_->clock()](Database& db) {
          NoteLeft(db, gateway_no, now_us);
          return absl::OkStatus();
        },
        [](const absl::Status&) {});
  }

  const Context* const context_;
  const std::shared_ptr<Line> line_;
  v1::GatewayReport report_;
  // Touched by one reaction at a time: reads, the command that follows the first, and OnDone after the last of them.
  Id16 gateway_;
  int64_t gateway_no_ = 0;
  bool attached_ = false;
};

class LeaseService final : public v1::Leases::CallbackService {
 public:
  explicit LeaseService(const Context* context) : context_(context) {}
  grpc::ServerBidiReactor<v1::GatewayReport, v1::GatewayOrder>* Attach(grpc::CallbackServerContext*) override {
    return new AttachReactor(context_);
  }

 private:
  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeLeaseService(const Context* context) {
  return std::make_unique<LeaseService>(context);
}

}  // namespace gantry::billing
