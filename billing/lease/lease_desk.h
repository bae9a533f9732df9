// The gateways that are attached, and what is lent to them: credit that can be called back, and permits.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "billing/lease/gateway_line.h"
#include "billing/lease/recall_desk.h"
#include "billing/lease/window_desk.h"
#include "billing/ledger/credit.h"
#include "gantry/v1/lease.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

// Thread-safe.
class LeaseDesk {
 public:
  struct Options {
    RecallDesk::Options recall;
    WindowDesk::Options windows;
  };
  // `may_run`: gateways that may have gone on while this process was away.
  LeaseDesk(Options options, const std::vector<Id16>& may_run);
  ~LeaseDesk();

  // The gateway's earlier line, if any, is closed. ABORTED: a newer epoch is attached.
  absl::Status Attach(const Id16& gateway, uint64_t epoch, const std::shared_ptr<GatewayLine>& line);
  // Nothing when another line of the gateway has taken its place.
  void Detach(const Id16& gateway, const GatewayLine* line);
  void Take(const Id16& gateway, const v1::GatewayReport& report);
  // Given up by an administrator.
  void Forget(const Id16& gateway) { windows_.Remove(gateway); }
  void CloseAll(const absl::Status& status);

  bool IsAttached(const Id16& gateway) const;
  bool IsAlone(const Id16& gateway) const { return windows_.IsAlone(gateway); }
  int attached() const;
  // For grants, from any thread.
  Lending Terms();
  RecallDesk& recalls() { return recalls_; }

 private:
  struct Attached {
    uint64_t epoch = 0;
    std::shared_ptr<GatewayLine> line;  // null: not attached now
  };
  void Loop();

  RecallDesk recalls_;
  WindowDesk windows_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Id16, Attached> gateways_ ABSL_GUARDED_BY(mu_);
  absl::Notification stop_;
  std::thread ticker_;
};

}  // namespace gantry::billing
