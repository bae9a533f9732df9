// The billing process in one object: store, services, listener, and the thread that does what time brings (heartbeats,
// witness deadlines, fenced slices, invoices that can be paid).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "billing/outbox/smtp.h"
#include "billing/outbox/webhook.h"
#include "billing/store/clock.h"
#include "services/common/metrics.h"
#include "services/common/rpc.h"

namespace gantry {
class Lifecycle;
}

namespace gantry::billing {

struct BillingOptions {
  RpcServerOptions rpc;
  std::string data_dir;                    // gantry.db and pepper live here; made (0700) when missing
  std::string command_log;                 // directory on another disk (R14); empty: none
  int64_t witness_deadline_ms = 900'000;   // how long a request waits for its second witness (R10)
  int64_t longest_request_ms = 3'600'000;  // a fenced slice is freed after this and the deadline (R9)
  SmtpOptions smtp;                        // no server: no mail
  WebhookOptions webhook;
  int64_t alerts_every_ms = 10'000;            // how often alerts are looked for, and open invoices that can be paid
  Clock clock;                                 // null: the system's
  std::function<void(absl::Status)> on_fatal;  // see Store::Options
};

class Billing {
 public:
  // Errors: those of Store::Open and RpcServer::Start, PERMISSION_DENIED for the data dir. `lifecycle` may be null
  // (tests): then there is no Process service.
  static absl::StatusOr<std::unique_ptr<Billing>> Start(BillingOptions options, Lifecycle* lifecycle);
  ~Billing();

  const std::string& address() const;
  const Metrics& metrics() const;
  Health CurrentHealth() const;
  // Refuses new calls, finishes running ones within the budget, ends the watch streams.
  void Drain(absl::Duration budget);

 private:
  struct Impl;
  explicit Billing(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gantry::billing
