// What billing counts. Thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "billing/store/store.h"
#include "services/common/metrics.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
template <typename T>
class Family;
}  // namespace prometheus

namespace gantry::billing {

class BillingMetrics {
 public:
  BillingMetrics();
  const Metrics& metrics() const { return metrics_; }

  void CountRecord(int witness, int outcome);  // outcome: v1::UsageOutcome; 0 for witness 2
  void CountRejected(int witness);
  void AddRevenue(const std::string& currency, int64_t micro);
  void ObserveCommit(double seconds, int commands);
  void SetOpen(int64_t open_items, int64_t quarantined);
  void SetOutbox(int64_t waiting, int64_t parked);
  void CountDelivery(const char* result);  // "delivered", "failed", "parked"
  // Gateways that are attached; rounds in which they were asked to give credit back, since this process started.
  void SetLeases(int attached, int64_t recall_rounds);
  // Parties that are parked; whether the last audit had nothing to say against the books; when everything was audited
  // last, 0: not since the start.
  void SetAudit(int64_t parked, bool well, int64_t full_us);
  // `covered_us`: when the newest confirmed backup was made, 0: never.
  void SetStore(const StoreStats& stats, bool writable, int64_t covered_us);

 private:
  Metrics metrics_;
  prometheus::Family<prometheus::Counter>* records_;
  prometheus::Family<prometheus::Counter>* rejected_;
  prometheus::Family<prometheus::Counter>* revenue_;
  prometheus::Histogram* commit_seconds_;
  prometheus::Counter* commands_;
  prometheus::Gauge* open_items_;
  prometheus::Gauge* quarantined_;
  prometheus::Gauge* attached_;
  prometheus::Counter* recall_rounds_;
  prometheus::Gauge* longest_commit_;
  prometheus::Gauge* longest_checkpoint_;
  prometheus::Gauge* wal_bytes_;
  prometheus::Gauge* writable_;
  prometheus::Gauge* last_backup_;
  prometheus::Gauge* outbox_waiting_;
  prometheus::Gauge* outbox_parked_;
  prometheus::Family<prometheus::Counter>* deliveries_;
  prometheus::Gauge* parked_;
  prometheus::Gauge* books_hold_;
  prometheus::Gauge* last_audit_;
};

}  // namespace gantry::billing
