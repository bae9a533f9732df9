#include "services/router/attach_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "gantry/v1/fleet.grpc.pb.h"
#include "services/common/order_line.h"
#include "services/router/fleet.h"

namespace gantry::router {
namespace {

// What outlives the reactor: Fleet may close a stream that is ending by itself.
class StreamState : public AttachStream {
 public:
  using Orders = OrderLine<v1::WorkerReport, v1::RouterOrder>;
  // Welcome and one snapshot request per gap: more than a few outstanding means that the worker does not read.
  explicit StreamState(Orders::Reactor* reactor)
      : orders_(reactor, {.order_limit = 16, .not_read = "the worker does not read its orders"}) {}
  void Close(const absl::Status& status) override { orders_.Close(status); }
  void Send(v1::RouterOrder order) { orders_.Send(std::move(order)); }
  void WriteDone(bool ok) { orders_.WriteDone(ok); }

 private:
  Orders orders_;
};

class AttachReactor final : public grpc::ServerBidiReactor<v1::WorkerReport, v1::RouterOrder> {
 public:
  explicit AttachReactor(Fleet* fleet) : fleet_(fleet), state_(std::make_shared<StreamState>(this)) {
    StartRead(&report_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      state_->Close(absl::OkStatus());
      return;
    }
    absl::Status status = Handle();
    if (!status.ok()) {
      state_->Close(status);
      return;
    }
    StartRead(&report_);
  }

  void OnWriteDone(bool ok) override { state_->WriteDone(ok); }
  void OnCancel() override { state_->Close(absl::CancelledError("the worker left")); }

  void OnDone() override {
    if (attachment_ != 0) fleet_->Detach(attachment_);
    delete this;
  }

 private:
  absl::Status Handle() {
    if (attachment_ == 0) {
      if (!report_.has_hello() || report_.sequence() != 1) {
        return absl::InvalidArgumentError("the first message on an attach stream is hello with sequence 1");
      }
      absl::StatusOr<Fleet::Attached> attached = fleet_->Attach(report_.hello(), state_);
      if (!attached.ok()) return attached.status();
      attachment_ = attached->attachment;
      v1::RouterOrder order;
      *order.mutable_welcome() = attached->welcome;
      state_->Send(std::move(order));
      return absl::OkStatus();
    }
    absl::StatusOr<std::optional<uint64_t>> gap = fleet_->Report(attachment_, report_);
    if (!gap.ok()) return gap.status();
    if (gap->has_value()) {
      v1::RouterOrder order;
      order.mutable_snapshot_request()->set_expected_sequence(**gap);
      state_->Send(std::move(order));
    }
    return absl::OkStatus();
  }

  Fleet* const fleet_;
  const std::shared_ptr<StreamState> state_;
  v1::WorkerReport report_;
  uint64_t attachment_ = 0;  // touched by reads only, and by OnDone after the last of them
};

class AttachService final : public v1::Fleet::CallbackService {
 public:
  explicit AttachService(Fleet* fleet) : fleet_(fleet) {}
  grpc::ServerBidiReactor<v1::WorkerReport, v1::RouterOrder>* Attach(grpc::CallbackServerContext*) override {
    return new AttachReactor(fleet_);
  }

 private:
  Fleet* const fleet_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAttachService(Fleet* fleet) {
  return std::make_unique<AttachService>(fleet);
}

}  // namespace gantry::router
