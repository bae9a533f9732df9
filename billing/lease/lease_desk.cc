#include "billing/lease/lease_desk.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace gantry::billing {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr int kTicksPerBeat = 20;

}  // namespace

LeaseDesk::LeaseDesk(Options options, const std::vector<Id16>& may_run)
    : recalls_(options.recall), windows_(std::move(options.windows)) {
  windows_.Await(may_run);
  ticker_ = std::thread([this] { Loop(); });
}

LeaseDesk::~LeaseDesk() {
  stop_.Notify();
  ticker_.join();
}

absl::Status LeaseDesk::Attach(const Id16& gateway, uint64_t epoch, const std::shared_ptr<GatewayLine>& line) {
  std::shared_ptr<GatewayLine> replaced;
  {
    absl::MutexLock lock(&mu_);
    Attached& attached = gateways_[gateway];
    if (epoch < attached.epoch) {
      return absl::AbortedError(
          absl::StrCat("gateway epoch ", epoch, " is fenced: epoch ", attached.epoch, " of the gateway is attached"));
    }
    const bool fresh = epoch > attached.epoch && attached.epoch != 0;
    replaced = std::exchange(attached.line, line);
    attached.epoch = epoch;
    recalls_.Attach(gateway, line);
    windows_.Attach(gateway, fresh, line);
  }
  if (replaced != nullptr) replaced->Close(absl::AbortedError("the gateway has attached anew"));
  return absl::OkStatus();
}

void LeaseDesk::Detach(const Id16& gateway, const GatewayLine* line) {
  absl::MutexLock lock(&mu_);
  const auto it = gateways_.find(gateway);
  if (it == gateways_.end() || it->second.line.get() != line) return;
  it->second.line = nullptr;
  recalls_.Detach(gateway);
  windows_.Detach(gateway);
}

void LeaseDesk::Take(const Id16& gateway, const v1::GatewayReport& report) {
  switch (report.kind_case()) {
    case v1::GatewayReport::kRecallDone:
      return recalls_.Answered(gateway, report.recall_done().number());
    case v1::GatewayReport::kWindows:
      return windows_.Report(gateway, report.windows());
    case v1::GatewayReport::kPermitRequest:
      return windows_.Ask(gateway, report.permit_request());
    case v1::GatewayReport::kPermitReturn:
      return windows_.Return(gateway, report.permit_return());
    case v1::GatewayReport::kTokensOwed:
      return windows_.Owe(gateway, report.tokens_owed());
    case v1::GatewayReport::kLeaving:
      return windows_.Remove(gateway);
    case v1::GatewayReport::kHello:
    case v1::GatewayReport::KIND_NOT_SET:
      return;
  }
}

void LeaseDesk::CloseAll(const absl::Status& status) {
  absl::MutexLock lock(&mu_);
  for (auto& [id, attached] : gateways_) {
    if (attached.line != nullptr) attached.line->Close(status);
  }
}

bool LeaseDesk::IsAttached(const Id16& gateway) const {
  absl::MutexLock lock(&mu_);
  const auto it = gateways_.find(gateway);
  return it != gateways_.end() && it->second.line != nullptr;
}

int LeaseDesk::attached() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(std::count_if(gateways_.begin(), gateways_.end(),
                                        [](const auto& entry) { return entry.second.line != nullptr; }));
}

Lending LeaseDesk::Terms() {
  return {.gateways = std::max(1, attached()),
          .called_back = [this](const CreditScope& scope) { return recalls_.CalledBack(scope); }};
}

void LeaseDesk::Loop() {
  int ticks = 0;
  while (!stop_.WaitForNotificationWithTimeout(kTick)) {
    windows_.Tick();
    if (++ticks % kTicksPerBeat != 0) continue;
    v1::GatewayOrder beat;
    beat.mutable_beat();
    absl::MutexLock lock(&mu_);
    for (auto& [id, attached] : gateways_) {
      if (attached.line != nullptr) attached.line->Send(beat);
    }
  }
}

}  // namespace gantry::billing
