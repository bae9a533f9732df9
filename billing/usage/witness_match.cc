#include "billing/usage/witness_match.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/usage/losses.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {
namespace {

struct Delivered {  // witness 1
  bool known = false;
  int64_t outcome = 0, prompt_tokens = 0, output_tokens = 0, witnesses = 0;
};
struct Generated {  // witness 2
  int64_t sequences = 0, output_tokens = 0, prompt_tokens = -1, cached_tokens = 0;
  bool gap = false;
};

Delivered DeliveredOf(const std::vector<UsageEvent>& events) {
  Delivered delivered;
  for (const UsageEvent& event : events) {
    if (event.outcome == v1::USAGE_OUTCOME_UNBILLED) continue;
    if (event.outcome == v1::USAGE_OUTCOME_CORRECTION) {
      delivered.prompt_tokens += event.prompt_tokens;
      delivered.output_tokens += event.output_tokens;
    } else {
      delivered = {true, event.outcome, event.prompt_tokens, event.output_tokens, event.witnesses};
    }
  }
  return delivered;
}

Generated GeneratedOf(std::vector<WitnessRow> rows) {
  std::sort(rows.begin(), rows.end(), [](const WitnessRow& a, const WitnessRow& b) {
    return std::tie(a.sequence, a.from_index, a.to_index) < std::tie(b.sequence, b.from_index, b.to_index);
  });
  Generated generated;
  int64_t sequence = -1, covered = 0;
  for (const WitnessRow& row : rows) {
    if (row.sequence != sequence) {
      generated.output_tokens += covered;
      sequence = row.sequence;
      covered = 0;
      ++generated.sequences;
    }
    // Attempts overlap or join; a hole means that a record is still on its way.
    if (row.from_index > covered) generated.gap = true;
    covered = std::max(covered, row.to_index);
    if (row.sequence == 0 && row.attempt <= 1) {
      generated.prompt_tokens = row.prompt_tokens;
      generated.cached_tokens = row.cached_tokens;
    }
  }
  generated.output_tokens += covered;
  return generated;
}

struct Weighed {
  const char* state;
  std::string detail;
};

Weighed Weigh(const Delivered& d, const Generated& g) {
  if (!d.known) return {"waiting", "for the gateway's record"};
  if (d.witnesses == 0) return {"agreed", g.sequences == 0 ? "nothing delivered" : ""};
  if (g.sequences < d.witnesses || g.gap) {
    return {"waiting", absl::StrCat("for the worker's records: ", g.sequences, " of ", d.witnesses, " sequences")};
  }
  const std::string counts = absl::StrCat("delivered ", d.output_tokens, ", generated ", g.output_tokens);
  const bool normal_end = d.outcome == v1::USAGE_OUTCOME_COMPLETED;
  if (d.output_tokens > g.output_tokens || (normal_end && d.output_tokens != g.output_tokens)) {
    return {"quarantined", counts};
  }
  if (normal_end && g.prompt_tokens >= 0 && g.prompt_tokens != d.prompt_tokens) {
    return {"quarantined", absl::StrCat("prompt tokens: gateway ", d.prompt_tokens, ", worker ", g.prompt_tokens)};
  }
  return {"agreed", counts};
}

}  // namespace

std::vector<WitnessRow> WitnessesOf(Database& db, const Id16& request_id) {
  std::vector<WitnessRow> witnesses;
  Rows rows = db.Query(
      "SELECT record_id, attempt, sequence, from_index, to_index, prompt_tokens, cached_tokens, recomputed_tokens, "
      "finish_reason, model_no, party_no FROM witness WHERE request_id = ?",
      request_id);
  while (rows.Next()) {
    witnesses.push_back({rows.Id(0), rows.Int(1), rows.Int(2), rows.Int(3), rows.Int(4), rows.Int(5), rows.Int(6),
                         rows.Int(7), rows.Int(8), rows.Int(9), rows.Int(10)});
  }
  return witnesses;
}

void MatchWitnesses(Database& db, const Id16& request_id, const std::vector<UsageEvent>& events,
                    const std::vector<WitnessRow>& witnesses, int64_t now_us) {
  const Weighed weighed = Weigh(DeliveredOf(events), GeneratedOf(witnesses));
  if (absl::string_view(weighed.state) == "agreed") {
    // The first record of a request finds nothing to take away.
    if (events.size() + witnesses.size() > 1) db.Execute("DELETE FROM unmatched WHERE request_id = ?", request_id);
    return;
  }
  db.Execute(
      "INSERT INTO unmatched (request_id, state, detail, since_us) VALUES (?, ?, ?, ?) ON CONFLICT (request_id) "
      "DO UPDATE SET state = CASE WHEN excluded.state = 'waiting' THEN state ELSE excluded.state END, "
      "detail = excluded.detail",
      request_id, weighed.state, weighed.detail, now_us);
}

std::string MatchState(Database& db, const Id16& request_id) {
  Rows rows = db.Query("SELECT state FROM unmatched WHERE request_id = ?", request_id);
  return rows.Next() ? rows.Text(0) : "agreed";
}

absl::Status ExpireWaiting(Database& db, int64_t before_us, int64_t now_us) {
  std::vector<Id16> late;
  {
    Rows rows =
        db.Query("SELECT request_id FROM unmatched WHERE state = 'waiting' AND since_us <= ? LIMIT 1000", before_us);
    while (rows.Next()) late.push_back(rows.Id(0));
  }
  for (const Id16& request : late) {
    const Delivered delivered = DeliveredOf(EventsOf(db, request));
    const Generated generated = GeneratedOf(WitnessesOf(db, request));
    // Part of the worker's count is there, and it is too small already or cannot be completed.
    Weighed given_up{"w1_only", absl::StrCat("delivered ", delivered.output_tokens, ", the worker's count is missing")};
    if (!delivered.known) {
      given_up = {"w2_only", absl::StrCat("generated ", generated.output_tokens, ", nothing billed")};
      UsageBook book(db);
      GANTRY_RETURN_IF_ERROR(BookLoss(book, request,
                                      {.prompt_tokens = std::max<int64_t>(generated.prompt_tokens, 0),
                                       .cached_tokens = generated.cached_tokens,
                                       .output_tokens = generated.output_tokens},
                                      now_us));
    }
    db.Execute("UPDATE unmatched SET state = ?, detail = ? WHERE request_id = ?", given_up.state, given_up.detail,
               request);
  }
  return absl::OkStatus();
}

MatchCounts CountMatches(Database& db) {
  MatchCounts counts;
  Rows rows = db.Query("SELECT state, count(*) FROM unmatched GROUP BY state");
  while (rows.Next()) {
    const std::string state = rows.Text(0);
    if (state == "waiting") counts.waiting = rows.Int(1);
    if (state == "w1_only") counts.w1_only = rows.Int(1);
    if (state == "w2_only") counts.w2_only = rows.Int(1);
    if (state == "quarantined") counts.quarantined = rows.Int(1);
  }
  return counts;
}

}  // namespace gantry::billing
