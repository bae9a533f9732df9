#include <type_traits>

#include "billing/service/billing_metrics.h"
#include "billing/service/services.h"
#include "billing/usage/gateway_clocks.h"
#include "billing/usage/usage.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

// A stream of batches: read one, commit it, acknowledge it, read the next. Several streams share group commits.
template <typename Batch, absl::StatusOr<AppendResult> (*Append)(Database&, const Batch&, int64_t)>
class AppendReactor final : public grpc::ServerBidiReactor<Batch, v1::UsageAck> {
 public:
  AppendReactor(const Context* context, int witness) : context_(context), witness_(witness) {
    this->StartRead(&batch_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      this->Finish(grpc::Status::OK);
      return;
    }
    if constexpr (std::is_same_v<Batch, v1::UsageBatch>) {
      context_->gateway_clocks->Note(batch_, context_->clock());
    }
    context_->store->WriteKeeping(
        [this](Database& db) {
          absl::StatusOr<AppendResult> result = Append(db, batch_, context_->clock());
          if (result.ok()) result_ = *std::move(result);
          return result.status();
        },
        [this](const absl::Status& status) { Committed(status); });
  }
  void OnWriteDone(bool ok) override {
    if (ok) {
      this->StartRead(&batch_);
    } else {
      this->Finish(grpc::Status::OK);
    }
  }
  void OnDone() override { delete this; }

 private:
  void Committed(const absl::Status& status) {
    if (!status.ok()) {
      this->Finish(ToGrpcStatus(status));
      return;
    }
    for (const AppendResult::Counted& counted : result_.counted) {
      context_->metrics->CountRecord(witness_, counted.outcome);
      if (counted.posted_micro > 0) context_->metrics->AddRevenue(counted.currency, counted.posted_micro);
    }
    for (const v1::RejectedRecord& rejected : result_.ack.rejected()) {
      context_->metrics->CountRejected(witness_);
      Log(LogLevel::kError, "usage record rejected", {{"witness", witness_}, {"reason", rejected.reason()}});
    }
    const int64_t now_us = context_->clock();
    result_.ack.set_acked_us(now_us);
    result_.ack.set_covered_us(context_->command_log ? now_us + 1 : context_->covered_us->load());
    this->StartWrite(&result_.ack);
  }

  const Context* const context_;
  const int witness_;
  Batch batch_;
  AppendResult result_;
};

class UsageService final : public v1::Usage::CallbackService {
 public:
  explicit UsageService(const Context* context) : context_(context) {}
  grpc::ServerBidiReactor<v1::UsageBatch, v1::UsageAck>* AppendUsage(grpc::CallbackServerContext*) override {
    return new AppendReactor<v1::UsageBatch, billing::AppendUsage>(context_, 1);
  }
  grpc::ServerBidiReactor<v1::WitnessBatch, v1::UsageAck>* AppendWitness(grpc::CallbackServerContext*) override {
    return new AppendReactor<v1::WitnessBatch, billing::AppendWitness>(context_, 2);
  }

 private:
  const Context* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeUsageService(const Context* context) {
  return std::make_unique<UsageService>(context);
}

}  // namespace gantry::billing
