// Requests that only a worker counted (R10): no gateway has told by the deadline what was delivered, so nothing is
// billed, and what it would have cost is booked to the house account `unbilled_loss`. Should the gateway's record come
// after all, it is billed as that says and the loss is taken back.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "billing/store/database.h"
#include "billing/usage/event.h"

namespace gantry::billing {

struct WorkersCount {
  int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
};
// Records the request as UNBILLED, at the price that its tenant pays now. Does nothing when the worker's records do not
// name a tenant that is known.
absl::Status BookLoss(UsageBook& book, const Id16& request_id, const WorkersCount& count, int64_t now_us);

// Takes back what BookLoss booked for `loss`; the money's source is `event_seq`.
absl::Status ReverseLoss(UsageBook& book, const UsageEvent& loss, int64_t event_seq, int64_t now_us);

}  // namespace gantry::billing
