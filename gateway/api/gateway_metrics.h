// What the gateway counts. Names are a contract with deploy/grafana; label sets are bounded (`model` holds known names
// only).
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/common/metrics.h"

namespace gantry::gateway {

class GatewayMetrics {
 public:
  GatewayMetrics();
  ~GatewayMetrics();
  // `model`: a name that the catalog knows, or empty.
  void Request(absl::string_view model, int status);
  void Tokens(absl::string_view model, uint64_t input, uint64_t cached, uint64_t output);
  void FirstToken(absl::string_view model, absl::Duration since_received);
  void BetweenTokens(absl::Duration gap);
  void Refused(absl::string_view reason);
  void StreamStarted();
  void StreamEnded();
  void Spool(int64_t bytes, double last_sync_ms);
  void ReservedHolds(int64_t total);  // since the start; from one thread

  const Metrics& metrics() const { return metrics_; }

 private:
  struct Families;
  Metrics metrics_;
  std::unique_ptr<Families> families_;
};

}  // namespace gantry::gateway
