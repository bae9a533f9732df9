// A row of `usage_event`: what was delivered (or, for a correction, the difference to it), chained to the row before.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "billing/store/database.h"
#include "billing/usage/hops.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct UsageEvent {
  int64_t seq = 0;  // given by Insert
  Id16 record_id;
  Id16 request_id;
  int64_t revision = 0;  // 0: the first of its request; a later one corrects what stands before
  int64_t party_no = 0;
  int64_t key_no = 0;  // 0: not a key of ours
  int64_t model_no = 0;
  int64_t outcome = 0;  // v1.UsageOutcome
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  int64_t reasoning_tokens = 0;
  int64_t requests = 0;
  int64_t witnesses = 0;
  int64_t ended_us = 0;
  int64_t received_us = 0;
  int64_t duration_ms = 0;
  int64_t first_token_ms = 0;
  int64_t drafted_tokens = 0;
  int64_t accepted_tokens = 0;
  int64_t device_us = 0;
  int64_t energy_mj = 0;  // 0: not measured
};

// At the end of the chain; `hops` are part of what the hash covers. Sets event->seq.
void InsertEvent(UsageBook& book, const std::vector<Hop>& hops, UsageEvent* event);

// Columns as ReadEvent reads them, from 0.
#define GANTRY_USAGE_COLUMNS                                                                                     \
  "u.seq, u.record_id, u.request_id, u.revision, u.party_no, u.key_no, u.model_no, u.outcome, u.prompt_tokens, " \
  "u.cached_tokens, u.output_tokens, u.reasoning_tokens, u.requests, u.witnesses, u.ended_us, u.received_us, "   \
  "u.duration_ms, u.first_token_ms, u.drafted_tokens, u.accepted_tokens, u.device_us, u.energy_mj"
inline constexpr int kUsageColumns = 22;
UsageEvent ReadEvent(const Rows& rows);

// What the hash of a row covers of its ratings.
struct RatedHop {
  int64_t buyer_no, seller_no, version_no, period, amount_pico;
};
// Of columns buyer_no, seller_no, version_no, period, amount_pico.
inline RatedHop ReadRatedHop(const Rows& rows, int column) {
  return {rows.Int(column), rows.Int(column + 1), rows.Int(column + 2), rows.Int(column + 3), rows.Int(column + 4)};
}
std::string EventHash(const std::string& previous, const UsageEvent& event, const std::vector<RatedHop>& hops);

// Everything of a request, in the order of its revisions.
std::vector<UsageEvent> EventsOf(Database& db, const Id16& request_id);

// An id that follows from another one and a purpose, the same each time.
Id16 DerivedId(const Id16& id, absl::string_view purpose);

}  // namespace gantry::billing
