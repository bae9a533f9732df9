// Messages to parties and where they go: the tables of migration 0002.
//
// A message is written in the transaction of what it tells, once per endpoint of its party that wants its topic; the
// courier (billing/outbox/courier.h) delivers rows at least once. A receiver tells repeats by the message's id.
// Functions run inside a command or a query of the store.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "nlohmann/json.hpp"
#include "services/common/ids.h"

namespace gantry::billing {

// ---- endpoints ----

inline constexpr int kEndpointsMax = 16;  // of one party

struct Endpoint {
  Id16 endpoint_id;
  Id16 party_id;
  std::string target;
  std::vector<std::string> topics;  // globs; empty: all
  int64_t secret_number = 1;
  int64_t previous_until_us = 0;
  int64_t created_us = 0;
};
// INVALID_ARGUMENT: target, topics; ALREADY_EXISTS: the party has that target; RESOURCE_EXHAUSTED: too many.
absl::StatusOr<Endpoint> AddEndpoint(Database& db, const Id16& party_id, const std::string& target,
                                     const std::vector<std::string>& topics, int64_t now_us);
// What waits for it is parked. NOT_FOUND.
absl::StatusOr<Endpoint> RemoveEndpoint(Database& db, const Id16& endpoint_id, int64_t now_us);
// A new secret; the one before signs too for `overlap_us`. NOT_FOUND; FAILED_PRECONDITION: mail is not signed.
absl::StatusOr<Endpoint> RotateEndpointSecret(Database& db, const Id16& endpoint_id, int64_t overlap_us,
                                              int64_t now_us);
absl::StatusOr<Endpoint> FindEndpoint(Database& db, const Id16& endpoint_id);
// Of one party; of all when `party_id` is zero.
std::vector<Endpoint> ListEndpoints(Database& db, const Id16& party_id);

// ---- messages ----

inline constexpr int64_t kOutboxWaitingMax = 10'000;   // rows of one endpoint; what comes then is parked
inline constexpr size_t kOutboxPayloadMax = 64 << 10;  // bytes

enum class OutboxState { kWaiting = 1, kDelivered = 2, kParked = 3, kUnaddressed = 4 };  // v1.OutboxState

struct OutboxMessage {
  std::string topic;  // "balance.low"
  Id16 party_id;
  std::string title;                                               // one line, for people
  std::string text;                                                // a few lines, for people
  nlohmann::ordered_json data = nlohmann::ordered_json::object();  // for programs
};
// Its id. INVALID_ARGUMENT: too large.
absl::StatusOr<Id16> Enqueue(Database& db, const OutboxMessage& message, int64_t now_us);
// The same to one endpoint, whatever topics it wants.
absl::StatusOr<Id16> EnqueueTo(Database& db, const OutboxMessage& message, const Id16& endpoint_id, int64_t now_us);

struct OutboxRow {
  int64_t seq = 0;
  Id16 message_id;
  std::string topic;
  Id16 party_id;
  std::optional<Id16> endpoint_id;
  std::string payload;  // JSON: id, topic, created, party, title, text, data
  int64_t created_us = 0;
  OutboxState state = OutboxState::kWaiting;
  int64_t attempts = 0;
  int64_t since_us = 0;
  int64_t next_us = 0;
  int64_t ended_us = 0;
  std::string last_error;
};

struct Delivery {
  OutboxRow row;
  Endpoint endpoint;
};
// The next row that is due for each endpoint, at most one each.
std::vector<Delivery> DueDeliveries(Database& db, int64_t now_us);

// What a try came to. Rows that are not waiting any more are left alone.
void MarkDelivered(Database& db, int64_t seq, int64_t now_us);
void MarkFailed(Database& db, int64_t seq, const std::string& error, int64_t next_us);
void MarkParked(Database& db, int64_t seq, const std::string& error, int64_t now_us);

// Parked rows wait again, with all tries before them. How many: one (`seq`) or all (0). NOT_FOUND; FAILED_PRECONDITION:
// that row is not parked, or its endpoint is gone.
absl::StatusOr<int64_t> RetryParked(Database& db, int64_t seq, int64_t now_us);

// Newest first, of one state or (nullopt) all; rows before `before_seq` when that is not 0.
std::vector<OutboxRow> ListOutbox(Database& db, std::optional<OutboxState> state, int64_t before_seq, int64_t limit);
absl::StatusOr<OutboxRow> FindOutboxRow(Database& db, int64_t seq);
// The row of a message that goes to that endpoint.
absl::StatusOr<OutboxRow> FindOutboxRow(Database& db, const Id16& message_id, const Id16& endpoint_id);

struct OutboxCounts {
  int64_t waiting = 0;
  int64_t parked = 0;
  int64_t oldest_waiting_us = 0;  // since when; 0: none waits
};
OutboxCounts CountOutbox(Database& db);

// Forgets delivered and unaddressed rows after 30 days, parked ones after 90; at most `limit`. How many.
int64_t PruneOutbox(Database& db, int64_t now_us, int64_t limit);
// Whether there is anything to forget.
bool OutboxNeedsPruning(Database& db, int64_t now_us);

}  // namespace gantry::billing
