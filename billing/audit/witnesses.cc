#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/audit/checks.h"
#include "billing/usage/witness_match.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {
namespace {

// A cursor over one table in the order of request ids, one request at a time.
struct Delivered {
  Id16 request;
  int64_t outcome = 0, witnesses = 0, output = 0, party_no = 0;
  bool billed = false;  // more than a loss of the house
};
struct Generated {
  Id16 request;
  int64_t output = 0;
};

class DeliveredCursor {
 public:
  explicit DeliveredCursor(Database& db)
      : rows_(db.Query("SELECT request_id, outcome, witnesses, output_tokens, party_no FROM usage_event "
                       "INDEXED BY usage_by_request ORDER BY request_id, revision")) {
    more_ = rows_.Next();
  }
  bool Next(Delivered* d) {
    if (!more_) return false;
    *d = {.request = rows_.Id(0)};
    for (; more_ && rows_.Id(0) == d->request; more_ = rows_.Next()) {
      d->party_no = rows_.Int(4);
      if (rows_.Int(1) == v1::USAGE_OUTCOME_UNBILLED) continue;
      d->outcome = d->billed ? std::min(d->outcome, rows_.Int(1)) : rows_.Int(1);
      d->witnesses = std::max(d->witnesses, rows_.Int(2));
      d->output += rows_.Int(3);
      d->billed = true;
    }
    return true;
  }

 private:
  Rows rows_;
  bool more_ = false;
};

class GeneratedCursor {
 public:
  GeneratedCursor(Database& db, Findings* findings)
      : findings_(*findings),
        rows_(db.Query(
            "SELECT request_id, sequence, to_index, seq, party_no, seal IS gantry_row_hash(record_id, request_id, "
            "party_no, worker_no, attempt, sequence, from_index, to_index, prompt_tokens, cached_tokens, "
            "recomputed_tokens, finish_reason, model_no, ended_us, device_us, energy_mj) FROM witness INDEXED BY "
            "witness_by_request "
            "ORDER BY request_id")) {
    more_ = Step();
  }
  bool Next(Generated* g) {
    if (!more_) return false;
    *g = {.request = rows_.Id(0)};
    longest_.clear();
    for (; more_ && rows_.Id(0) == g->request; more_ = Step()) {
      const int64_t sequence = rows_.Int(1), to = rows_.Int(2);
      auto known = std::find_if(longest_.begin(), longest_.end(), [&](const auto& s) { return s.first == sequence; });
      if (known == longest_.end()) known = longest_.insert(longest_.end(), {sequence, 0});
      known->second = std::max(known->second, to);
    }
    for (const auto& [sequence, to] : longest_) g->output += to;
    return true;
  }
  // Whether rows are numbered 1, 2, … to the last.
  bool without_gaps() const { return count_ == newest_ && (count_ == 0 || oldest_ == 1); }

 private:
  bool Step() {
    if (!rows_.Next()) return false;
    ++count_;
    newest_ = std::max(newest_, rows_.Int(3));
    oldest_ = std::min(oldest_, rows_.Int(3));
    if (rows_.Int(5) == 0) {
      findings_.Add(check::kWitnesses, absl::StrCat("witness ", rows_.Int(3)), "is not what was written", rows_.Int(4));
    }
    return true;
  }
  Findings& findings_;
  Rows rows_;
  bool more_ = false;
  int64_t count_ = 0, newest_ = 0, oldest_ = std::numeric_limits<int64_t>::max();
  std::vector<std::pair<int64_t, int64_t>> longest_;  // by sequence
};

}  // namespace

void CheckWitnesses(Database& db, Findings* findings) {
  findings->Begin(check::kWitnesses);
  const MatchCounts counts = CountMatches(db);
  if (counts.quarantined > 0) {
    findings->Add(check::kWitnesses, "unmatched",
                  absl::StrCat(counts.quarantined, " requests in quarantine: their counts contradict each other"));
  }
  int64_t requests = 0;
  DeliveredCursor delivered(db);
  GeneratedCursor generated(db, findings);
  // Requests that stand among the unmatched are known to differ.
  Rows unmatched = db.Query("SELECT request_id FROM unmatched ORDER BY request_id");
  bool more_unmatched = unmatched.Next();
  Generated g;
  bool more_generated = generated.Next(&g);
  Delivered d;
  while (delivered.Next(&d)) {
    while (more_generated && g.request < d.request) more_generated = generated.Next(&g);
    while (more_unmatched && unmatched.Id(0) < d.request) more_unmatched = unmatched.Next();
    if (!d.billed) continue;
    ++requests;
    if (d.witnesses == 0 || (more_unmatched && unmatched.Id(0) == d.request)) continue;
    const bool known = more_generated && g.request == d.request;
    const bool completed = d.outcome == v1::USAGE_OUTCOME_COMPLETED;
    if (known && g.output >= d.output && (!completed || g.output == d.output)) continue;
    findings->Add(check::kWitnesses, absl::StrCat("request ", d.request.ToHex()),
                  absl::StrCat("counts as agreed; delivered ", d.output, ", ",
                               known ? absl::StrCat("generated ", g.output) : std::string("no witness")),
                  d.party_no);
  }
  while (more_generated) more_generated = generated.Next(&g);
  if (!generated.without_gaps()) {
    Rows gap = db.Query(
        "SELECT min(w.seq) + 1 FROM (SELECT 0 AS seq UNION ALL SELECT seq FROM witness) w "
        "WHERE w.seq >= 0 AND NOT EXISTS (SELECT 1 FROM witness n WHERE n.seq = w.seq + 1)");
    findings->Add(check::kWitnesses, absl::StrCat("witness ", gap.Next() ? gap.Int(0) : 0), "is missing");
  }
  findings->Figures(check::kWitnesses, absl::StrCat(requests, " requests, ", counts.waiting, " wait, ", counts.w1_only,
                                                    " without the worker's count, ", counts.w2_only,
                                                    " without the gateway's (not billed)"));
}

}  // namespace gantry::billing
