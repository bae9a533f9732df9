#include "services/router/router_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "services/router/fleet.h"

namespace gantry::router {
namespace {

constexpr const char* kOutcomeNames[kOutcomes] = {"ok",        "cancelled",  "deadline",    "invalid", "unknown_model",
                                                  "no_worker", "queue_full", "worker_lost", "error"};

}  // namespace

RouterMetrics::RouterMetrics() {
  prometheus::Registry& registry = *metrics_.registry();
  auto& requests = prometheus::BuildCounter()
                       .Name("gantry_router_requests_total")
                       .Help("Generate streams that ended, by how they ended")
                       .Register(registry);
  for (int i = 0; i < kOutcomes; ++i) requests_[i] = &requests.Add({{"outcome", kOutcomeNames[i]}});
  queue_wait_ = &prometheus::BuildHistogram()
                     .Name("gantry_router_queue_wait_seconds")
                     .Help("From the start message to a reserved worker")
                     .Register(registry)
                     .Add({}, prometheus::Histogram::BucketBoundaries{0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5,
                                                                      10, 30, 60});
  frames_ = &prometheus::BuildCounter()
                 .Name("gantry_router_frames_total")
                 .Help("Messages forwarded from workers to gateways")
                 .Register(registry)
                 .Add({});
  queue_depth_ = &prometheus::BuildGauge()
                      .Name("gantry_router_queue_depth")
                      .Help("Requests waiting for a worker")
                      .Register(registry)
                      .Add({});
  running_ = &prometheus::BuildGauge()
                  .Name("gantry_router_running_requests")
                  .Help("Requests handed to workers and not ended")
                  .Register(registry)
                  .Add({});
  auto& workers = prometheus::BuildGauge()
                      .Name("gantry_router_workers")
                      .Help("Attached workers: ready, draining, or suspect (silent, but so is most of the fleet)")
                      .Register(registry);
  ready_ = &workers.Add({{"state", "ready"}});
  draining_ = &workers.Add({{"state", "draining"}});
  suspect_ = &workers.Add({{"state", "suspect"}});
}

void RouterMetrics::CountRequest(Outcome outcome) {
  requests_[static_cast<int>(outcome)]->Increment();
}
void RouterMetrics::ObserveQueueWait(double seconds) {
  queue_wait_->Observe(seconds);
}
void RouterMetrics::ObserveFrame() {
  frames_->Increment();
}

void RouterMetrics::Set(const FleetCounts& counts) {
  queue_depth_->Set(static_cast<double>(counts.waiting));
  running_->Set(static_cast<double>(counts.reserved));
  ready_->Set(static_cast<double>(counts.ready));
  draining_->Set(static_cast<double>(counts.draining));
  suspect_->Set(static_cast<double>(counts.suspect));
}

}  // namespace gantry::router
