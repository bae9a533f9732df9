// The router process as an object: fleet, services, listener and ticking thread, put together. main.cc and the tests
// start the same thing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/common/rpc.h"

namespace gantry {
class Lifecycle;
struct Health;
struct ProcessState;
}  // namespace gantry

namespace gantry::router {

struct RouterOptions {
  RpcServerOptions rpc;  // process = "router"
  Identity identity;     // what this router is towards workers
  int64_t queue_limit = 1024;
  int64_t queue_wait_ms = 60'000;
};

class RouterMetrics;
struct FleetCounts;

class Router {
 public:
  // `lifecycle` outlives the router; null in tests that need no Process service. Errors of RpcServer::Start.
  static absl::StatusOr<std::unique_ptr<Router>> Start(RouterOptions options, Lifecycle* lifecycle);
  ~Router();

  const std::string& address() const;
  FleetCounts Counts() const;
  RouterMetrics& metrics();
  // Refreshes gauges before a scrape.
  void UpdateMetrics();
  Health CurrentHealth() const;

  // Admits no more, waits up to `budget` for running streams, then ends what is left and the attach streams. Blocks.
  void Drain(absl::Duration budget);

 private:
  struct Impl;
  explicit Router(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gantry::router
