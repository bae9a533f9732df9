#include "billing/usage/witness_match.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {
namespace {

struct Delivered {  // witness 1
  bool known = false;
  int64_t outcome = 0, prompt_tokens = 0, output_tokens = 0, witnesses = 0;
};
struct Generated {  // witness 2
  int64_t sequences = 0, output_tokens = 0, prompt_tokens = -1;
  bool gap = false;
};
struct State {
  const char* name;
  std::string detail;
};

Delivered ReadDelivered(Database& db, const Id16& request) {
  Rows rows = db.Query("SELECT outcome, prompt_tokens, output_tokens, witnesses FROM usage_event WHERE request_id = ?",
                       request);
  if (!rows.Next()) return {};
  return {true, rows.Int(0), rows.Int(1), rows.Int(2), rows.Int(3)};
}

Generated ReadGenerated(Database& db, const Id16& request) {
  Generated generated;
  int64_t sequence = -1, covered = 0;
  Rows rows = db.Query(
      "SELECT sequence, from_index, to_index, attempt, prompt_tokens FROM witness WHERE request_id = ? "
      "ORDER BY sequence, from_index, to_index",
      request);
  while (rows.Next()) {
    if (rows.Int(0) != sequence) {
      generated.output_tokens += covered;
      sequence = rows.Int(0);
      covered = 0;
      ++generated.sequences;
    }
    // Attempts overlap or join; a hole means that a record is still on its way.
    if (rows.Int(1) > covered) generated.gap = true;
    covered = std::max(covered, rows.Int(2));
    if (rows.Int(0) == 0 && rows.Int(3) <= 1) generated.prompt_tokens = rows.Int(4);
  }
  generated.output_tokens += covered;
  return generated;
}

State Weigh(const Delivered& d, const Generated& g) {
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

void MatchWitnesses(Database& db, const Id16& request_id, int64_t now_us) {
  const State state = Weigh(ReadDelivered(db, request_id), ReadGenerated(db, request_id));
  db.Execute(
      "INSERT INTO witness_match (request_id, state, detail, since_us) VALUES (?, ?, ?, ?) ON CONFLICT (request_id) "
      "DO UPDATE SET state = CASE WHEN excluded.state = 'waiting' THEN state ELSE excluded.state END, "
      "detail = excluded.detail",
      request_id, state.name, state.detail, now_us);
}

void ExpireWaiting(Database& db, int64_t before_us) {
  std::vector<Id16> late;
  {
    Rows rows = db.Query("SELECT request_id FROM witness_match WHERE state = 'waiting' AND since_us <= ? LIMIT 1000",
                         before_us);
    while (rows.Next()) late.push_back(rows.Id(0));
  }
  for (const Id16& request : late) {
    const Delivered delivered = ReadDelivered(db, request);
    const Generated generated = ReadGenerated(db, request);
    State state{"w2_only", absl::StrCat("generated ", generated.output_tokens, ", nothing billed")};
    if (delivered.known) {
      // Part of the worker's count is there, and it is too small already or cannot be completed.
      state = {"w1_only", absl::StrCat("delivered ", delivered.output_tokens, ", the worker's count is missing")};
    }
    db.Execute("UPDATE witness_match SET state = ?, detail = ? WHERE request_id = ?", state.name, state.detail,
               request);
  }
}

MatchCounts CountMatches(Database& db) {
  MatchCounts counts;
  Rows rows = db.Query("SELECT state, count(*) FROM witness_match WHERE state <> 'agreed' GROUP BY state");
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
