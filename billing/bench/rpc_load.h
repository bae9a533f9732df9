// Load over gRPC: gantry-billing's services in this process, on a unix socket, met as gateways and workers meet them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {

struct Quantiles {
  double p50_ms = 0, p99_ms = 0, most_ms = 0;
};

class RpcLoad {
 public:
  // Serves the books in `data_dir`, which nobody has open. *ready_s: from nothing to the first call that can be
  // answered.
  static absl::StatusOr<std::unique_ptr<RpcLoad>> Start(const std::string& data_dir, double* ready_s);
  ~RpcLoad();

  // Sends all batches over so many streams of each witness, each waiting for its acknowledgement before the next, as
  // spools do. Seconds until the last one.
  absl::StatusOr<double> SendAll(const std::vector<v1::UsageBatch>& usage,
                                 const std::vector<v1::WitnessBatch>& witnesses, int streams);
  // The same at a pace: batch i is due at i / batches_per_s; what is due while a stream waits goes together then. How
  // long after it was due each was acknowledged.
  absl::StatusOr<Quantiles> SendPaced(const std::vector<v1::UsageBatch>& usage,
                                      const std::vector<v1::WitnessBatch>& witnesses, int streams,
                                      double batches_per_s);
  absl::StatusOr<Quantiles> ReservePaced(const std::vector<v1::ReserveRequest>& requests, double per_s);

 private:
  struct Impl;
  explicit RpcLoad(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gantry::billing
