// Two independent counts of every request meet here (R10).
//
//   waiting      one of them has not come yet
//   agreed       a normal end: counts equal; an end by stop string, abort or loss: delivered <= generated
//   w1_only      the worker's count has not come in time: billed as delivered, flagged
//   w2_only      the gateway's has not: nothing billed, a cost of the house
//   quarantined  more delivered than generated, or a normal end with different counts: somebody must look
//
// A late witness is weighed again, whatever the state was.
#pragma once

#include <cstdint>
#include <string>

#include "billing/store/database.h"
#include "services/common/ids.h"

namespace gantry::billing {

// After either witness of the request has been recorded.
void MatchWitnesses(Database& db, const Id16& request_id, int64_t now_us);

// Gives up waiting for requests whose first witness came before `before_us`.
void ExpireWaiting(Database& db, int64_t before_us);

struct MatchCounts {
  int64_t waiting = 0, w1_only = 0, w2_only = 0, quarantined = 0;
};
MatchCounts CountMatches(Database& db);

}  // namespace gantry::billing
