// Made-up business for demonstrations, tests and benchmarks: a house, resellers, tenants with credit and keys, and
// requests of theirs as gateway and worker would report them. The same seed gives the same business.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/store/store.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct SampleOptions {
  int resellers = 10;  // each with a plan of its own; 0: all tenants buy from the house
  int tenants = 1000;
  uint64_t seed = 1;
  int64_t credit_micro = 1'000'000'000'000;  // of every party: a million units
};

struct SampleTenant {
  Id16 party_id, key_id, plan_version_id, slice_id;
  int64_t party_no = 0;
};

struct SampleRequest {
  v1::UsageRecord usage;
  v1::WitnessRecord witness;
};

class Sample {
 public:
  // Makes the parties in an empty store. FAILED_PRECONDITION: there is a house already.
  static absl::StatusOr<Sample> Make(Store& store, SampleOptions options, int64_t now_us);

  const std::vector<SampleTenant>& tenants() const { return tenants_; }
  const Id16& gateway_id() const { return gateway_id_; }
  const std::string& worker_id() const { return worker_id_; }

  // Grants every tenant a slice to pay its requests from, in place of the one before.
  absl::Status GrantSlices(Store& store, int64_t micro, int64_t now_us);

  // The next request, of a random tenant, paid from its slice. Ids are ordered as those of real gateways are.
  SampleRequest Next();
  // A hold of its own for a request.
  v1::ReserveRequest HoldFor(SampleRequest* request, int64_t micro);

 private:
  explicit Sample(SampleOptions options) : options_(options), random_(options.seed) {}

  SampleOptions options_;
  std::mt19937_64 random_;
  std::vector<SampleTenant> tenants_;
  Id16 gateway_id_;
  std::string worker_id_ = std::string(16, 'w');
};

}  // namespace gantry::billing
