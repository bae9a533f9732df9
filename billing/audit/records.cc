#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/audit/checks.h"
#include "billing/catalog/admin_log.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/ledger.h"
#include "billing/store/chain.h"
#include "billing/usage/event.h"
#include "billing/usage/rollup.h"
#include "billing/usage/witness_match.h"

namespace gantry::billing {

void CheckPlans(Database& db, v1::AuditReport* report) {
  std::string failure;
  std::vector<Id16> ids;
  {
    Rows rows = db.Query("SELECT plan_version_id FROM plan_version");
    while (rows.Next()) ids.push_back(rows.Id(0));
  }
  for (const Id16& id : ids) {
    absl::StatusOr<PlanTerms> terms = ReadTerms(db, id);
    if (terms.ok() && HashOfTerms(*terms) == terms->hash) continue;
    failure = terms.ok() ? absl::StrCat("plan ", terms->plan, " version ", terms->number, " is not what was published")
                         : std::string(terms.status().message());
  }
  Report(report, "plan versions unchanged", failure, absl::StrCat(ids.size(), " versions"));
}

// ---- chains ----

namespace {

// Follows one chain: what the next row must be.
class Chain {
 public:
  // Empty when the row with this number and hash follows; `hash_of(previous)` computes what its hash must be.
  template <typename HashOf>
  void Row(int64_t seq, const std::string& hash, HashOf hash_of) {
    if (!failure_.empty()) return;
    if (seq != rows_ + 1) {
      failure_ = absl::StrCat("row ", rows_ + 1, " is missing");
    } else if (hash_of(previous_) != hash) {
      failure_ = absl::StrCat("row ", seq, " is not what was written");
    }
    previous_ = hash;
    rows_ = seq;
  }
  void Report(v1::AuditReport* report, const char* name) const {
    billing::Report(report, name, failure_, absl::StrCat(rows_, " rows"));
  }

 private:
  std::string previous_, failure_;
  int64_t rows_ = 0;
};

void CheckUsageChain(Database& db, v1::AuditReport* report) {
  Chain chain;
  UsageEvent event;
  std::string hash;
  std::vector<RatedHop> hops;
  const auto finish = [&] {
    if (event.seq == 0) return;
    chain.Row(event.seq, hash, [&](const std::string& previous) { return EventHash(previous, event, hops); });
  };
  Rows rows = db.Query("SELECT " GANTRY_USAGE_COLUMNS
                       ", u.hash, r.buyer_no, r.seller_no, r.version_no, r.period, r.amount_pico FROM usage_event u "
                       "LEFT JOIN rating r ON r.event_seq = u.seq ORDER BY u.seq, r.level");
  while (rows.Next()) {
    if (rows.Int(0) != event.seq) {
      finish();
      event = ReadEvent(rows);
      hash = rows.Text(kUsageColumns);
      hops.clear();
    }
    if (!rows.IsNull(kUsageColumns + 1)) hops.push_back(ReadRatedHop(rows, kUsageColumns + 1));
  }
  finish();
  chain.Report(report, "usage chain");
}

}  // namespace

void CheckChains(Database& db, v1::AuditReport* report) {
  {
    Chain chain;
    Rows rows = db.Query(
        "SELECT seq, debit_account, credit_account, amount_micro, kind, source, reference, booked_us, hash "
        "FROM transfer ORDER BY seq");
    while (rows.Next()) {
      const Transfer transfer{.debit_account = rows.Int(1),
                              .credit_account = rows.Int(2),
                              .amount_micro = rows.Int(3),
                              .kind = static_cast<TransferKind>(rows.Int(4)),
                              .source = rows.Int(5),
                              .reference = rows.Text(6),
                              .booked_us = rows.Int(7)};
      chain.Row(rows.Int(0), rows.Text(8),
                [&](const std::string& previous) { return TransferHash(previous, rows.Int(0), transfer); });
    }
    chain.Report(report, "transfer chain");
  }
  CheckUsageChain(db, report);
  Chain chain;
  Rows rows = db.Query("SELECT seq, at_us, actor, action, object, detail, hash FROM audit_log ORDER BY seq");
  while (rows.Next()) {
    chain.Row(rows.Int(0), rows.Text(6), [&](const std::string& previous) {
      return AuditRowHash(previous, rows.Int(0), rows.Int(1), rows.Text(2), rows.Text(3), rows.Text(4), rows.Text(5));
    });
  }
  chain.Report(report, "audit log chain");
}

// ---- invoices and witnesses ----

void CheckInvoices(Database& db, v1::AuditReport* report) {
  std::string failure, series;
  int64_t count = 0, expected = 1;
  Rows rows = db.Query(
      "SELECT series, number, content, hash, party_no, period, EXISTS (SELECT 1 FROM invoice_void v WHERE v.invoice_no "
      "= "
      "i.invoice_no) FROM invoice i ORDER BY series, number");
  while (rows.Next()) {
    ++count;
    if (rows.Text(0) != series) expected = 1;
    series = rows.Text(0);
    v1::Invoice invoice;
    if (rows.Int(1) != expected) failure = absl::StrCat("series ", series, ": number ", expected, " is missing");
    if (Sha256(rows.Text(2)) != rows.Text(3) || !invoice.ParseFromString(rows.Text(2))) {
      failure = absl::StrCat("invoice ", series, "-", rows.Int(1), " is not what was issued");
    }
    __int128 used = 0;
    int64_t net = 0, billed = 0;
    for (const v1::InvoiceLine& line : invoice.lines()) {
      net += line.net_minor();
      if (line.kind() == "usage") billed += line.amount_pico();
    }
    if (net != invoice.net_minor()) failure = absl::StrCat("invoice ", invoice.number(), ": lines give ", net);
    for (const RollupRow& row : RollupOf(db, rows.Int(4), rows.Int(5))) used += row.amount_pico;
    // The period of a void one is open again, or stands on another invoice.
    if (used != billed && rows.Int(6) == 0) {
      failure = absl::StrCat("invoice ", invoice.number(), ": billed ", billed, ", usage gives ",
                             static_cast<int64_t>(used), " pico-units");
    }
    ++expected;
  }
  Report(report, "invoices = usage, numbers without gaps", failure, absl::StrCat(count, " final invoices"));
}

void CheckWitnesses(Database& db, v1::AuditReport* report) {
  const MatchCounts counts = CountMatches(db);
  std::string failure;
  int64_t requests = 0, sums_differ = 0;
  {
    // Per request both counts, as far as sums can tell; requests that stand among the unmatched are known to differ.
    Rows rows = db.Query(
        "WITH w AS (SELECT request_id, sum(n) AS generated FROM (SELECT request_id, max(to_index) AS n FROM witness "
        "GROUP BY request_id, sequence) GROUP BY request_id) "
        "SELECT count(*), coalesce(sum(x.request_id IS NULL AND u.witnesses > 0 AND (w.generated IS NULL OR "
        "w.generated < u.delivered OR (u.outcome = 1 AND w.generated <> u.delivered))), 0) FROM "
        "(SELECT request_id, min(outcome) AS outcome, max(witnesses) AS witnesses, sum(output_tokens) AS delivered "
        " FROM usage_event WHERE outcome <> 6 GROUP BY request_id) u "
        "LEFT JOIN w USING (request_id) LEFT JOIN unmatched x USING (request_id)");
    if (rows.Next()) {
      requests = rows.Int(0);
      sums_differ = rows.Int(1);
    }
  }
  if (counts.quarantined > 0) {
    failure = absl::StrCat(counts.quarantined, " requests in quarantine: their counts contradict each other");
  }
  if (sums_differ > 0) failure = absl::StrCat(sums_differ, " requests count as agreed whose witnesses do not");
  Report(report, "witnesses agree", failure,
         absl::StrCat(requests, " requests, ", counts.waiting, " wait, ", counts.w1_only,
                      " without the worker's count, ", counts.w2_only, " without the gateway's (not billed)"));
}

}  // namespace gantry::billing
