#include "billing/outbox/outbox.h"

#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "billing/outbox/target.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr size_t kTopicsMax = 16, kTopicBytesMax = 64, kErrorBytesMax = 500;
constexpr int64_t kDayUs = 86'400'000'000;
constexpr int64_t kKeepUs = 30 * kDayUs, kKeepParkedUs = 90 * kDayUs;

#define ENDPOINT_COLUMNS \
  "e.endpoint_id, e.party_id, e.target, e.topics, e.secret_number, e.previous_until_us, e.created_us"
#define ROW_COLUMNS                                                                                         \
  "o.seq, o.message_id, o.topic, o.party_id, o.endpoint_id, o.payload, o.created_us, o.state, o.attempts, " \
  "o.since_us, "                                                                                            \
  "o.next_us, o.ended_us, o.last_error"
constexpr int kRowColumns = 13;

Endpoint ReadEndpoint(const Rows& rows, int at = 0) {
  Endpoint endpoint{.endpoint_id = rows.Id(at),
                    .party_id = rows.Id(at + 1),
                    .target = rows.Text(at + 2),
                    .secret_number = rows.Int(at + 4),
                    .previous_until_us = rows.Int(at + 5),
                    .created_us = rows.Int(at + 6)};
  for (const absl::string_view topic : absl::StrSplit(rows.Text(at + 3), '\n', absl::SkipEmpty())) {
    endpoint.topics.emplace_back(topic);
  }
  return endpoint;
}

OutboxRow ReadRow(const Rows& rows) {
  OutboxRow row{.seq = rows.Int(0),
                .message_id = rows.Id(1),
                .topic = rows.Text(2),
                .party_id = rows.Id(3),
                .payload = rows.Text(5),
                .created_us = rows.Int(6),
                .state = static_cast<OutboxState>(rows.Int(7)),
                .attempts = rows.Int(8),
                .since_us = rows.Int(9),
                .next_us = rows.Int(10),
                .ended_us = rows.Int(11),
                .last_error = rows.Text(12)};
  if (!rows.IsNull(4)) row.endpoint_id = rows.Id(4);
  return row;
}

// '*' stands for any number of characters.
bool Matches(absl::string_view glob, absl::string_view text) {
  for (size_t i = 0;; ++i) {
    if (i == glob.size()) return i == text.size();
    if (glob[i] == '*') {
      for (size_t skip = i; skip <= text.size(); ++skip) {
        if (Matches(glob.substr(i + 1), text.substr(skip))) return true;
      }
      return false;
    }
    if (i == text.size() || glob[i] != text[i]) return false;
  }
}

bool Wants(const Endpoint& endpoint, const std::string& topic) {
  if (endpoint.topics.empty()) return true;
  for (const std::string& glob : endpoint.topics) {
    if (Matches(glob, topic)) return true;
  }
  return false;
}

absl::Status CheckTopics(const std::vector<std::string>& topics) {
  if (topics.size() > kTopicsMax) return absl::InvalidArgumentError(absl::StrCat("topics: at most ", kTopicsMax));
  for (const std::string& topic : topics) {
    int stars = 0;
    bool good = !topic.empty() && topic.size() <= kTopicBytesMax;
    for (const char c : topic) {
      stars += c == '*' ? 1 : 0;
      good = good && (absl::ascii_islower(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '*');
    }
    // Each star multiplies the work of a match.
    if (!good || stars > 2) {
      return absl::InvalidArgumentError(
          absl::StrCat("topics: `", topic, "`: expected a name like balance.low, with at most two * for anything"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Payload(const OutboxMessage& message, const Id16& id, int64_t now_us) {
  const nlohmann::ordered_json payload = {
      {"id", id.ToHex()},
      {"topic", message.topic},
      {"created", absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", absl::FromUnixMicros(now_us), absl::UTCTimeZone())},
      {"party", message.party_id.ToHex()},
      {"title", message.title},
      {"text", message.text},
      {"data", message.data}};
  std::string text = payload.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > kOutboxPayloadMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a message of ", text.size(), " bytes; at most ", kOutboxPayloadMax));
  }
  return text;
}

void InsertRow(Database& db, const OutboxMessage& message, const Id16& id, const std::string& payload,
               const Endpoint* endpoint, int64_t now_us) {
  if (endpoint == nullptr) {
    db.Execute(
        "INSERT INTO outbox (message_id, topic, party_id, payload, created_us, state, since_us, next_us, ended_us) "
        "VALUES (?, ?, ?, ?, ?, 4, ?, ?, ?)",
        id, message.topic, message.party_id, payload, now_us, now_us, now_us, now_us);
    return;
  }
  bool full = false;
  {
    Rows rows = db.Query("SELECT count(*) FROM outbox WHERE state = 1 AND endpoint_id = ?", endpoint->endpoint_id);
    full = rows.Next() && rows.Int(0) >= kOutboxWaitingMax;
  }
  db.Execute(
      "INSERT INTO outbox (message_id, topic, party_id, endpoint_id, payload, created_us, state, since_us, next_us, "
      "ended_us, last_error) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      id, message.topic, message.party_id, endpoint->endpoint_id, payload, now_us, full ? 3 : 1, now_us, now_us,
      full ? now_us : int64_t{0},
      full ? absl::StrCat(kOutboxWaitingMax, " messages wait for this endpoint already") : std::string());
}

}  // namespace

// ---- endpoints ----

absl::StatusOr<Endpoint> AddEndpoint(Database& db, const Id16& party_id, const std::string& target,
                                     const std::vector<std::string>& topics, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(ParseTarget(target).status());
  GANTRY_RETURN_IF_ERROR(CheckTopics(topics));
  const std::vector<Endpoint> existing = ListEndpoints(db, party_id);
  for (const Endpoint& endpoint : existing) {
    if (endpoint.target == target) {
      return absl::AlreadyExistsError(absl::StrCat(target, " is endpoint ", endpoint.endpoint_id.ToHex(),
                                                   " already; remove it to change its topics"));
    }
  }
  if (existing.size() >= static_cast<size_t>(kEndpointsMax)) {
    return absl::ResourceExhaustedError(absl::StrCat("a party has at most ", kEndpointsMax, " endpoints; remove one"));
  }
  Endpoint endpoint{.endpoint_id = NewTimeOrderedId(),
                    .party_id = party_id,
                    .target = target,
                    .topics = topics,
                    .created_us = now_us};
  db.Execute(
      "INSERT INTO outbox_endpoint (endpoint_id, party_id, target, topics, secret_number, previous_until_us, "
      "created_us) "
      "VALUES (?, ?, ?, ?, 1, 0, ?)",
      endpoint.endpoint_id, party_id, target, absl::StrJoin(topics, "\n"), now_us);
  return endpoint;
}

absl::StatusOr<Endpoint> RemoveEndpoint(Database& db, const Id16& endpoint_id, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(Endpoint endpoint, FindEndpoint(db, endpoint_id));
  db.Execute(
      "UPDATE outbox SET state = 3, ended_us = ?, last_error = 'its endpoint was removed' "
      "WHERE state = 1 AND endpoint_id = ?",
      now_us, endpoint_id);
  db.Execute("DELETE FROM outbox_endpoint WHERE endpoint_id = ?", endpoint_id);
  return endpoint;
}

absl::StatusOr<Endpoint> RotateEndpointSecret(Database& db, const Id16& endpoint_id, int64_t overlap_us,
                                              int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(Endpoint endpoint, FindEndpoint(db, endpoint_id));
  GANTRY_ASSIGN_OR_RETURN(const Target target, ParseTarget(endpoint.target));
  if (std::holds_alternative<MailTarget>(target)) {
    return absl::FailedPreconditionError("mails are not signed: only a webhook has a secret");
  }
  ++endpoint.secret_number;
  endpoint.previous_until_us = overlap_us > 0 ? now_us + overlap_us : 0;
  db.Execute("UPDATE outbox_endpoint SET secret_number = ?, previous_until_us = ? WHERE endpoint_id = ?",
             endpoint.secret_number, endpoint.previous_until_us, endpoint_id);
  return endpoint;
}

absl::StatusOr<Endpoint> FindEndpoint(Database& db, const Id16& endpoint_id) {
  Rows rows = db.Query("SELECT " ENDPOINT_COLUMNS " FROM outbox_endpoint e WHERE e.endpoint_id = ?", endpoint_id);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no endpoint with id ", endpoint_id.ToHex()));
  return ReadEndpoint(rows);
}

std::vector<Endpoint> ListEndpoints(Database& db, const Id16& party_id) {
  std::vector<Endpoint> endpoints;
  Rows rows = db.Query("SELECT " ENDPOINT_COLUMNS
                       " FROM outbox_endpoint e WHERE ? OR e.party_id = ? ORDER BY e.party_id, e.endpoint_id",
                       party_id.IsZero() ? 1 : 0, party_id);
  while (rows.Next()) endpoints.push_back(ReadEndpoint(rows));
  return endpoints;
}

// ---- messages ----

absl::StatusOr<Id16> Enqueue(Database& db, const OutboxMessage& message, int64_t now_us) {
  const Id16 id = NewTimeOrderedId();
  GANTRY_ASSIGN_OR_RETURN(const std::string payload, Payload(message, id, now_us));
  bool addressed = false;
  for (const Endpoint& endpoint : ListEndpoints(db, message.party_id)) {
    if (!Wants(endpoint, message.topic)) continue;
    InsertRow(db, message, id, payload, &endpoint, now_us);
    addressed = true;
  }
  if (!addressed) InsertRow(db, message, id, payload, nullptr, now_us);
  return id;
}

absl::StatusOr<Id16> EnqueueTo(Database& db, const OutboxMessage& message, const Id16& endpoint_id, int64_t now_us) {
  const Id16 id = NewTimeOrderedId();
  GANTRY_ASSIGN_OR_RETURN(const Endpoint endpoint, FindEndpoint(db, endpoint_id));
  GANTRY_ASSIGN_OR_RETURN(const std::string payload, Payload(message, id, now_us));
  InsertRow(db, message, id, payload, &endpoint, now_us);
  return id;
}

std::vector<Delivery> DueDeliveries(Database& db, int64_t now_us) {
  std::vector<Delivery> due;
  Rows rows = db.Query("SELECT " ROW_COLUMNS ", " ENDPOINT_COLUMNS
                       " FROM outbox_endpoint e JOIN outbox o ON o.seq = (SELECT w.seq FROM outbox w "
                       "WHERE w.state = 1 AND w.endpoint_id = e.endpoint_id AND w.next_us <= ? "
                       "ORDER BY w.next_us LIMIT 1)",
                       now_us);
  while (rows.Next()) due.push_back({ReadRow(rows), ReadEndpoint(rows, kRowColumns)});
  return due;
}

void MarkDelivered(Database& db, int64_t seq, int64_t now_us) {
  db.Execute(
      "UPDATE outbox SET state = 2, attempts = attempts + 1, ended_us = ?, last_error = '' WHERE seq = ? AND state = 1",
      now_us, seq);
}

void MarkFailed(Database& db, int64_t seq, const std::string& error, int64_t next_us) {
  db.Execute("UPDATE outbox SET attempts = attempts + 1, next_us = ?, last_error = ? WHERE seq = ? AND state = 1",
             next_us, error.substr(0, kErrorBytesMax), seq);
}

void MarkParked(Database& db, int64_t seq, const std::string& error, int64_t now_us) {
  db.Execute(
      "UPDATE outbox SET state = 3, attempts = attempts + 1, ended_us = ?, last_error = ? WHERE seq = ? AND state = 1",
      now_us, error.substr(0, kErrorBytesMax), seq);
}

absl::StatusOr<int64_t> RetryParked(Database& db, int64_t seq, int64_t now_us) {
  if (seq != 0) {
    GANTRY_ASSIGN_OR_RETURN(const OutboxRow row, FindOutboxRow(db, seq));
    if (row.state != OutboxState::kParked) {
      return absl::FailedPreconditionError(absl::StrCat("message ", seq, " is not parked"));
    }
    if (!row.endpoint_id.has_value() || !FindEndpoint(db, *row.endpoint_id).ok()) {
      return absl::FailedPreconditionError(absl::StrCat("the endpoint of message ", seq, " was removed"));
    }
  }
  return db.Execute(
      "UPDATE outbox SET state = 1, attempts = 0, since_us = ?, next_us = ?, ended_us = 0 WHERE state = 3 AND "
      "(? = 0 OR seq = ?) AND endpoint_id IN (SELECT endpoint_id FROM outbox_endpoint)",
      now_us, now_us, seq, seq);
}

std::vector<OutboxRow> ListOutbox(Database& db, std::optional<OutboxState> state, int64_t before_seq, int64_t limit) {
  std::vector<OutboxRow> list;
  Rows rows = db.Query(
      "SELECT " ROW_COLUMNS
      " FROM outbox o WHERE (? = 0 OR o.state = ?) AND (? = 0 OR o.seq < ?) ORDER BY o.seq DESC LIMIT ?",
      state.has_value() ? 1 : 0, state.has_value() ? static_cast<int>(*state) : 0, before_seq, before_seq, limit);
  while (rows.Next()) list.push_back(ReadRow(rows));
  return list;
}

absl::StatusOr<OutboxRow> FindOutboxRow(Database& db, int64_t seq) {
  Rows rows = db.Query("SELECT " ROW_COLUMNS " FROM outbox o WHERE o.seq = ?", seq);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no message ", seq, " in the outbox"));
  return ReadRow(rows);
}

absl::StatusOr<OutboxRow> FindOutboxRow(Database& db, const Id16& message_id, const Id16& endpoint_id) {
  Rows rows = db.Query("SELECT " ROW_COLUMNS " FROM outbox o WHERE o.message_id = ? AND o.endpoint_id = ?", message_id,
                       endpoint_id);
  if (!rows.Next()) return absl::NotFoundError("no such message in the outbox");
  return ReadRow(rows);
}

OutboxCounts CountOutbox(Database& db) {
  OutboxCounts counts;
  {
    Rows rows = db.Query("SELECT count(*), coalesce(min(since_us), 0) FROM outbox WHERE state = 1");
    if (rows.Next()) {
      counts.waiting = rows.Int(0);
      counts.oldest_waiting_us = rows.Int(1);
    }
  }
  Rows rows = db.Query("SELECT count(*) FROM outbox WHERE state = 3");
  if (rows.Next()) counts.parked = rows.Int(0);
  return counts;
}

#define PRUNABLE "(state IN (2, 4) AND ended_us < ?) OR (state = 3 AND ended_us < ?)"

bool OutboxNeedsPruning(Database& db, int64_t now_us) {
  Rows rows = db.Query("SELECT 1 FROM outbox WHERE " PRUNABLE " LIMIT 1", now_us - kKeepUs, now_us - kKeepParkedUs);
  return rows.Next();
}

int64_t PruneOutbox(Database& db, int64_t now_us, int64_t limit) {
  return db.Execute("DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE " PRUNABLE " LIMIT ?)",
                    now_us - kKeepUs, now_us - kKeepParkedUs, limit);
}

}  // namespace gantry::billing
