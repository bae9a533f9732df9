#include "services/router/router.h"

#include <grpcpp/impl/service_type.h>
#include <time.h>

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "services/common/lifecycle.h"
#include "services/common/log.h"
#include "services/common/metrics.h"
#include "services/common/process_service.h"
#include "services/router/attach_service.h"
#include "services/router/fleet.h"
#include "services/router/inference_service.h"
#include "services/router/router_metrics.h"

namespace gantry::router {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);

absl::Duration MonotonicNow() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::DurationFromTimespec(now);
}

}  // namespace

struct Router::Impl {
  RouterOptions options;
  Lifecycle* lifecycle = nullptr;
  RouterMetrics metrics;
  std::atomic<bool> draining{false};
  std::atomic<int64_t> ticked_ms{0};
  std::unique_ptr<Fleet> fleet;
  std::unique_ptr<grpc::Service> attach_service;
  std::unique_ptr<grpc::Service> inference_service;
  std::unique_ptr<grpc::Service> process_service;
  std::unique_ptr<RpcServer> server;
  absl::Notification stop;
  std::thread ticker;

  bool Live() const {
    return absl::ToInt64Milliseconds(MonotonicNow()) - ticked_ms.load() < 20 * absl::ToInt64Milliseconds(kTick);
  }

  ProcessState State() const {
    FleetCounts counts = fleet->Counts();
    ProcessState state;
    state.live = Live();
    // Without workers a router is ready too: they reach it only where the unready are taken out of service.
    state.ready = !draining && (lifecycle == nullptr || !lifecycle->draining());
    state.running = static_cast<uint32_t>(counts.reserved);
    state.items = {
        {"workers", absl::StrCat(counts.ready)},           {"workers draining", absl::StrCat(counts.draining)},
        {"workers suspect", absl::StrCat(counts.suspect)}, {"running", absl::StrCat(counts.reserved)},
        {"queue", absl::StrCat(counts.waiting)},
    };
    return state;
  }
};

Router::Router(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Router::~Router() {
  Drain(absl::ZeroDuration());
  impl_->stop.Notify();
  impl_->ticker.join();
}

absl::StatusOr<std::unique_ptr<Router>> Router::Start(RouterOptions options, Lifecycle* lifecycle) {
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  impl->lifecycle = lifecycle;
  Impl* raw = impl.get();

  FleetOptions fleet;
  fleet.queue_limit = static_cast<size_t>(impl->options.queue_limit);
  fleet.queue_wait_max = absl::Milliseconds(impl->options.queue_wait_ms);
  fleet.epoch = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now()));
  fleet.now = MonotonicNow;
  fleet.connect = [raw](const std::string& address) { return MakeChannel(address, raw->options.identity); };
  impl->fleet = std::make_unique<Fleet>(std::move(fleet));

  impl->attach_service = MakeAttachService(impl->fleet.get());
  impl->inference_service = MakeInferenceService(impl->fleet.get(), &impl->metrics, MonotonicNow, [raw] {
    return !raw->draining && (raw->lifecycle == nullptr || !raw->lifecycle->draining());
  });
  std::vector<grpc::Service*> services = {impl->attach_service.get(), impl->inference_service.get()};
  if (lifecycle != nullptr) {
    impl->process_service = MakeProcessService("router", lifecycle, [raw] { return raw->State(); });
    services.push_back(impl->process_service.get());
  }
  impl->ticked_ms = absl::ToInt64Milliseconds(MonotonicNow());
  absl::StatusOr<std::unique_ptr<RpcServer>> server = RpcServer::Start(impl->options.rpc, services);
  if (!server.ok()) return server.status();
  impl->server = *std::move(server);
  impl->ticker = std::thread([raw] {
    while (!raw->stop.WaitForNotificationWithTimeout(kTick)) {
      raw->fleet->Tick();
      raw->ticked_ms = absl::ToInt64Milliseconds(MonotonicNow());
    }
  });
  return std::unique_ptr<Router>(new Router(std::move(impl)));
}

const std::string& Router::address() const {
  return impl_->server->address();
}
FleetCounts Router::Counts() const {
  return impl_->fleet->Counts();
}
RouterMetrics& Router::metrics() {
  return impl_->metrics;
}
void Router::UpdateMetrics() {
  impl_->metrics.Set(impl_->fleet->Counts());
}

Health Router::CurrentHealth() const {
  FleetCounts counts = impl_->fleet->Counts();
  ProcessState state = impl_->State();
  return {.live = state.live,
          .ready = state.ready,
          .detail = absl::StrCat(counts.ready, " workers ready, ", counts.suspect, " suspect, ", counts.draining,
                                 " draining; ", counts.reserved, " requests running, ", counts.waiting, " waiting")};
}

void Router::Drain(absl::Duration budget) {
  impl_->draining = true;
  absl::Duration deadline = MonotonicNow() + budget;
  while (MonotonicNow() < deadline) {
    FleetCounts counts = impl_->fleet->Counts();
    if (counts.reserved == 0 && counts.waiting == 0) break;
    absl::SleepFor(absl::Milliseconds(10));
  }
  impl_->fleet->Close(absl::UnavailableError("router is stopping"));
  impl_->server->Shutdown(absl::Milliseconds(250));
}

}  // namespace gantry::router
