#include "billing/service/billing_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

namespace gantry::billing {
namespace {

constexpr const char* kOutcomes[] = {"generated", "completed", "stopped", "aborted", "failed", "gateway_lost"};

}  // namespace

BillingMetrics::BillingMetrics() {
  prometheus::Registry& registry = *metrics_.registry();
  records_ = &prometheus::BuildCounter()
                  .Name("gantry_billing_usage_records_total")
                  .Help("Usage records made durable, by witness (1: gateway, 2: worker) and outcome")
                  .Register(registry);
  for (int outcome = 1; outcome <= 5; ++outcome) records_->Add({{"witness", "1"}, {"outcome", kOutcomes[outcome]}});
  records_->Add({{"witness", "2"}, {"outcome", kOutcomes[0]}});
  rejected_ = &prometheus::BuildCounter()
                   .Name("gantry_billing_rejected_records_total")
                   .Help("Usage records that can never be taken; each one is a defect somewhere")
                   .Register(registry);
  rejected_->Add({{"witness", "1"}});
  rejected_->Add({{"witness", "2"}});
  revenue_ = &prometheus::BuildCounter()
                  .Name("gantry_billing_revenue_micro_total")
                  .Help("Millionths of the currency booked to revenue since this process started")
                  .Register(registry);
  commit_seconds_ = &prometheus::BuildHistogram()
                         .Name("gantry_billing_commit_seconds")
                         .Help("One group commit: begin to durable")
                         .Register(registry)
                         .Add({}, prometheus::Histogram::BucketBoundaries{0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05,
                                                                          0.1, 0.25, 0.5, 1, 5});
  commands_ = &prometheus::BuildCounter()
                   .Name("gantry_billing_commands_total")
                   .Help("Commands committed, several per group")
                   .Register(registry)
                   .Add({});
  open_items_ = &prometheus::BuildGauge()
                     .Name("gantry_billing_open_items")
                     .Help("Requests that wait for a witness, pending holds, slices of gateways that are gone")
                     .Register(registry)
                     .Add({});
  quarantined_ = &prometheus::BuildGauge()
                      .Name("gantry_billing_quarantined_records")
                      .Help("Requests whose witnesses contradict each other")
                      .Register(registry)
                      .Add({});
  const auto gauge = [&](const char* name, const char* help) {
    return &prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
  };
  attached_ = gauge("gantry_billing_attached_gateways", "Gateways that are attached");
  recall_rounds_ = &prometheus::BuildCounter()
                        .Name("gantry_billing_recall_rounds_total")
                        .Help("Times that gateways were asked to give credit back because money was short")
                        .Register(registry)
                        .Add({});
  longest_commit_ =
      gauge("gantry_billing_longest_commit_seconds", "The slowest group commit since this process started");
  longest_checkpoint_ = gauge("gantry_billing_longest_checkpoint_seconds",
                              "The slowest checkpoint since this process started; commits wait for it");
  wal_bytes_ = gauge("gantry_billing_wal_bytes", "The write-ahead log; queries that take long let it grow");
  writable_ = gauge("gantry_billing_writable", "0: the disk failed and nothing is acknowledged until a restart");
  writable_->Set(1);
  last_backup_ = gauge("gantry_billing_last_backup_timestamp_seconds",
                       "When the newest backup was made that is safely in a file; 0: never");
  outbox_waiting_ = gauge("gantry_billing_outbox_waiting", "Messages to parties that are not delivered yet");
  outbox_parked_ =
      gauge("gantry_billing_outbox_parked", "Messages that were given up; `gantry outbox retry` takes them up again");
  deliveries_ = &prometheus::BuildCounter()
                     .Name("gantry_billing_deliveries_total")
                     .Help("Tries to deliver a message, by result")
                     .Register(registry);
  for (const char* result : {"delivered", "failed", "parked"}) deliveries_->Add({{"result", result}});
  parked_ =
      gauge("gantry_billing_parked_parties", "Parties whose books an audit found wrong: nothing is booked for them");
  books_hold_ = gauge("gantry_billing_books_hold", "0: the last audit found the books wrong or could not be made");
  books_hold_->Set(1);
  last_audit_ = gauge("gantry_billing_last_full_audit_timestamp_seconds",
                      "When everything was audited last; 0: not since this process started");
}

void BillingMetrics::CountRecord(int witness, int outcome) {
  const int index = outcome >= 0 && outcome <= 5 ? outcome : 0;
  records_->Add({{"witness", witness == 1 ? "1" : "2"}, {"outcome", kOutcomes[index]}}).Increment();
}
void BillingMetrics::CountRejected(int witness) {
  rejected_->Add({{"witness", witness == 1 ? "1" : "2"}}).Increment();
}
void BillingMetrics::AddRevenue(const std::string& currency, int64_t micro) {
  revenue_->Add({{"currency", currency}}).Increment(static_cast<double>(micro));
}
void BillingMetrics::ObserveCommit(double seconds, int commands) {
  commit_seconds_->Observe(seconds);
  commands_->Increment(commands);
}
void BillingMetrics::SetOpen(int64_t open_items, int64_t quarantined) {
  open_items_->Set(static_cast<double>(open_items));
  quarantined_->Set(static_cast<double>(quarantined));
}

void BillingMetrics::SetOutbox(int64_t waiting, int64_t parked) {
  outbox_waiting_->Set(static_cast<double>(waiting));
  outbox_parked_->Set(static_cast<double>(parked));
}
void BillingMetrics::CountDelivery(const char* result) {
  deliveries_->Add({{"result", result}}).Increment();
}
void BillingMetrics::SetLeases(int attached, int64_t recall_rounds) {
  attached_->Set(attached);
  recall_rounds_->Increment(static_cast<double>(recall_rounds) - recall_rounds_->Value());
}
void BillingMetrics::SetAudit(int64_t parked, bool well, int64_t full_us) {
  parked_->Set(static_cast<double>(parked));
  books_hold_->Set(well ? 1 : 0);
  last_audit_->Set(static_cast<double>(full_us) / 1e6);
}

void BillingMetrics::SetStore(const StoreStats& stats, bool writable, int64_t covered_us) {
  longest_commit_->Set(stats.longest_commit_s);
  longest_checkpoint_->Set(stats.longest_checkpoint_s);
  wal_bytes_->Set(stats.wal_frames * 4096.0);
  writable_->Set(writable ? 1 : 0);
  last_backup_->Set(static_cast<double>(covered_us) / 1e6);
}

}  // namespace gantry::billing
