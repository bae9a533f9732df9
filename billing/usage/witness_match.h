// Two independent counts of every request meet here (R10).
//
//   waiting      one of them has not come yet
//   agreed       a normal end: counts equal; an end by stop string, abort or loss: delivered <= generated
//   w1_only      the worker's count has not come in time: billed as delivered, flagged
//   w2_only      the gateway's has not: nothing billed, a loss of the house (billing/usage/losses.h)
//   quarantined  more delivered than generated, or a normal end with different counts: somebody must look
//
// A late witness is weighed again, whatever the state was, and so is a correction. Prompt counts are those of the first
// attempt; what is computed again, replayed or hedged changes neither count.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "billing/store/database.h"
#include "billing/usage/event.h"
#include "services/common/ids.h"

namespace gantry::billing {

// A record of witness 2.
struct WitnessRow {
  Id16 record_id;
  int64_t attempt = 0, sequence = 0, from_index = 0, to_index = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0, recomputed_tokens = 0, finish_reason = 0, model_no = 0, party_no = 0;
  bool operator==(const WitnessRow&) const = default;
};
std::vector<WitnessRow> WitnessesOf(Database& db, const Id16& request_id);

// After either witness of the request, or a correction, has been recorded: weighs everything that is there.
void MatchWitnesses(Database& db, const Id16& request_id, const std::vector<UsageEvent>& events,
                    const std::vector<WitnessRow>& witnesses, int64_t now_us);

// Gives up waiting for requests whose first witness came before `before_us`; at most 1000 at a time.
absl::Status ExpireWaiting(Database& db, int64_t before_us, int64_t now_us);

// "agreed" unless it stands among the unmatched.
std::string MatchState(Database& db, const Id16& request_id);

struct MatchCounts {
  int64_t waiting = 0, w1_only = 0, w2_only = 0, quarantined = 0;
};
MatchCounts CountMatches(Database& db);

}  // namespace gantry::billing
