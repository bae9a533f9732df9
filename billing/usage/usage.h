// Usage becomes money here, exactly once (R9, R10, R11).
//
// Witness 1 (gateway: what was delivered) is rated with the plan version pinned at admission, and at every hop above
// with the version then in force, and settled against the slice or hold it names, in the transaction that records it.
// What its slice no longer covers goes to the house account `late_unheld`, never to an overdraft. Witness 2 (worker:
// what was generated) costs nothing and proves the first.
//
// A record is known by its id: a repeat is acknowledged and changes nothing; the same id with other content is
// rejected, but for one case: after a crash a gateway may close a request as GATEWAY_LOST whose better record is here
// already.
//
// Usage of a parked party (billing/parties/parking.h) is acknowledged as well, kept as it came and booked once the
// party is released.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {

inline constexpr uint64_t kTokensMax = uint64_t{1} << 40;  // far above any request, far below an overflow

struct AppendResult {
  v1::UsageAck ack;
  struct Counted {             // one per record that was new
    int outcome = 0;           // v1::UsageOutcome, or 0 for witness 2
    int64_t posted_micro = 0;  // charged to the tenant
    std::string currency;
  };
  std::vector<Counted> counted;
};

// INVALID_ARGUMENT for a batch of more than 512 records; single bad records are in `ack.rejected`.
absl::StatusOr<AppendResult> AppendUsage(Database& db, const v1::UsageBatch& batch, int64_t now_us);
absl::StatusOr<AppendResult> AppendWitness(Database& db, const v1::WitnessBatch& batch, int64_t now_us);

}  // namespace gantry::billing
