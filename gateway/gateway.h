// The gateway process as an object: public listener, API, admission, journal, connections and the clock that ticks
// them, put together. main.cc and the tests start the same thing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/api/api_context.h"
#include "gateway/http/server.h"
#include "services/common/file.h"
#include "services/common/rpc.h"
#include "services/common/spool.h"

namespace gantry {
class Lifecycle;
class Metrics;
struct Health;
}  // namespace gantry

namespace gantry::gateway {

struct GatewayOptions {
  HttpServerOptions http;
  bool insecure = false;  // plain HTTP on an address that is not loopback (R16)
  RpcServerOptions rpc;   // process = "gateway"; an empty `listen`: no Process service
  Identity identity;      // what this gateway is towards router and billing
  std::string router;
  std::string billing;
  std::string state_dir;  // id, epoch, spool
  int64_t slice_micro = 1'000'000;
  Durability durability = Durability::kFsync;
  int64_t spool_bytes = int64_t{1} << 30;
  ApiOptions api;
  FileSystem* file_system = PosixFileSystem();  // under the spool
};

class Gateway {
 public:
  // Serves as soon as it returns; requests are refused with 503 until keys and models are known. `lifecycle` outlives
  // the gateway. Errors: INVALID_ARGUMENT (address, TLS), UNAVAILABLE (address in use), PERMISSION_DENIED and DATA_LOSS
  // (state directory, spool), those of RpcServer::Start.
  static absl::StatusOr<std::unique_ptr<Gateway>> Start(GatewayOptions options, Lifecycle* lifecycle);
  ~Gateway();

  int http_port() const;
  const Metrics& metrics() const;
  void UpdateMetrics();
  Health CurrentHealth() const;
  // Keys are fresh, prices and a model are known, usage can be written.
  bool ready() const;

  // Admits no more, waits up to `budget` for running requests, ends the rest with an error, hands usage and unspent
  // credit to billing (up to 5 s more). Blocks.
  void Drain(absl::Duration budget);

 private:
  struct Impl;
  explicit Gateway(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Comma-separated address ranges. INVALID_ARGUMENT names the one that is none.
absl::StatusOr<std::vector<Cidr>> ParseCidrs(const std::string& text);

}  // namespace gantry::gateway
