// Counters of the router. Label values come from the enums here, never from a request.
#pragma once

#include <array>

#include "services/common/metrics.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace gantry::router {

struct FleetCounts;

// How a Generate stream ended, as the router saw it.
enum class Outcome {
  kOk,         // the worker closed it in order
  kCancelled,  // the client left, or cancelled while waiting
  kDeadline,
  kInvalid,  // refused: malformed
  kUnknownModel,
  kNoWorker,
  kQueueFull,
  kWorkerLost,
  kError,  // the worker answered another status
};
inline constexpr int kOutcomes = 9;

class RouterMetrics {
 public:
  RouterMetrics();

  const Metrics& metrics() const { return metrics_; }
  void CountRequest(Outcome outcome);
  void ObserveQueueWait(double seconds);
  void ObserveFrame();
  // Refreshes the gauges.
  void Set(const FleetCounts& counts);

 private:
  Metrics metrics_;
  std::array<prometheus::Counter*, kOutcomes> requests_{};
  prometheus::Histogram* queue_wait_;
  prometheus::Counter* frames_;
  prometheus::Gauge* queue_depth_;
  prometheus::Gauge* running_;
  prometheus::Gauge* ready_;
  prometheus::Gauge* draining_;
  prometheus::Gauge* suspect_;
};

}  // namespace gantry::router
