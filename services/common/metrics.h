// Metrics of a process and the local listener that shows them.
//
// Families are built with prometheus-cpp on `*metrics.registry()` in the .cc that counts (include
// <prometheus/counter.h> and friends there). Names: gantry_<part>_<what>_<unit>. Labels only from bounded sets: model,
// outcome, reason; never a request id, a key or text from outside.
//
// The listener is one thread with poll(2): GET /metrics (Prometheus text), GET /healthz (JSON
// {"live","ready","detail"}, 200 when live and ready, else 503). At most 16 connections, 2 s each, 8 KiB of request: it
// cannot be made to hold memory, and a stuck scraper does not stop the next.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace prometheus {
class Registry;
}  // namespace prometheus

namespace gantry {

struct Health {
  bool live = true;    // the loop turns
  bool ready = false;  // admits work
  std::string detail;  // one line for people: "1 worker, 3 running, 0 waiting"
};

class Metrics {
 public:
  Metrics();
  ~Metrics();
  // Never null; thread-safe.
  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }
  // Prometheus text exposition format 0.0.4.
  std::string Render() const;

 private:
  std::shared_ptr<prometheus::Registry> registry_;
};

class MetricsServer {
 public:
  // `address`: "127.0.0.1:8082"; port 0 chooses one. `before_scrape` (may be null) refreshes gauges; both callbacks run
  // on the listener's thread and must not block. Errors name the address: UNAVAILABLE (in use), INVALID_ARGUMENT.
  // `metrics` outlives the server.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address, const Metrics* metrics,
                                                              std::function<Health()> health,
                                                              std::function<void()> before_scrape = nullptr);
  ~MetricsServer();
  int port() const;

 private:
  struct Impl;
  explicit MetricsServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gantry
