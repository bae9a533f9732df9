#include "billing/audit/audit.h"

#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/catalog/admin_log.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/ledger.h"
#include "billing/rating/rating.h"
#include "billing/store/chain.h"
#include "billing/usage/usage.h"
#include "billing/usage/witness_match.h"

namespace gantry::billing {
namespace {

void Report(v1::AuditReport* report, const char* name, const std::string& failure, const std::string& figures) {
  v1::AuditCheck* check = report->add_checks();
  check->set_name(name);
  check->set_ok(failure.empty());
  check->set_detail(failure.empty() ? figures : failure);
  if (!failure.empty()) report->set_ok(false);
}

// Every check is one query that lists what is wrong, or one pass over a table.

void CheckFile(Database& db, v1::AuditReport* report) {
  std::string failure;
  Rows rows = db.Query("PRAGMA quick_check(1)");
  if (rows.Next() && rows.Text(0) != "ok") failure = rows.Text(0);
  Report(report, "database file", failure, "pages and rows are well-formed");
}

void CheckAccounts(Database& db, v1::AuditReport* report) {
  std::string failure;
  int64_t accounts = 0;
  {
    Rows rows = db.Query(
        "SELECT a.account_id, a.debit_micro, a.credit_micro, "
        "(SELECT coalesce(sum(amount_micro), 0) FROM transfer WHERE debit_account = a.account_id), "
        "(SELECT coalesce(sum(amount_micro), 0) FROM transfer WHERE credit_account = a.account_id) FROM account a");
    while (rows.Next()) {
      ++accounts;
      if (rows.Int(1) == rows.Int(3) && rows.Int(2) == rows.Int(4)) continue;
      failure = absl::StrCat("account ", rows.Int(0), ": debits ", rows.Int(1), ", credits ", rows.Int(2),
                             "; its transfers give ", rows.Int(3), " and ", rows.Int(4));
    }
  }
  Report(report, "accounts = transfers", failure, absl::StrCat(accounts, " accounts"));

  failure.clear();
  std::string figures;
  Rows rows = db.Query("SELECT currency, sum(debit_micro), sum(credit_micro) FROM account GROUP BY currency");
  while (rows.Next()) {
    if (rows.Int(1) != rows.Int(2)) {
      failure = absl::StrCat(rows.Text(0), ": debits ", rows.Int(1), ", credits ", rows.Int(2));
    }
    absl::StrAppend(&figures, figures.empty() ? "" : ", ", rows.Text(0), " ", rows.Int(1), " micro-units each");
  }
  Report(report, "debits = credits", failure, figures.empty() ? "no money yet" : figures);
}

void CheckHeld(Database& db, v1::AuditReport* report) {
  std::string failure;
  int64_t total = 0;
  {
    Rows rows = db.Query(
        "SELECT p.name, a.held_micro, "
        "(SELECT coalesce(sum(granted_micro - spent_micro - returned_micro), 0) FROM slice s "
        " WHERE s.party_id = a.party_id AND s.open = 1) + "
        "(SELECT coalesce(sum(held_micro), 0) FROM hold h WHERE h.party_id = a.party_id AND h.state = 1) "
        "FROM account a JOIN party p USING (party_id) WHERE a.type = 'prepaid'");
    while (rows.Next()) {
      total += rows.Int(1);
      if (rows.Int(1) == rows.Int(2)) continue;
      failure =
          absl::StrCat(rows.Text(0), ": held ", rows.Int(1), ", open slices and pending holds give ", rows.Int(2));
    }
  }
  Report(report, "held = open slices + pending holds", failure, absl::StrCat(total, " micro-units"));

  failure.clear();
  Rows rows = db.Query(
      "SELECT p.name, a.credit_micro - a.debit_micro - a.held_micro + p.credit_limit_micro FROM account a "
      "JOIN party p USING (party_id) WHERE a.type = 'prepaid' "
      "AND a.credit_micro - a.debit_micro - a.held_micro + p.credit_limit_micro < 0");
  while (rows.Next()) failure = absl::StrCat(rows.Text(0), ": available ", rows.Int(1), " micro-units");
  Report(report, "no overdraft", failure, "every balance covers what is held");
}

// Σ usage in pico = Σ posted x 10^6 + residue, per tenant, in 128 bits.
void CheckUsageIsBooked(Database& db, v1::AuditReport* report) {
  struct Sums {
    std::string name;
    __int128 used = 0, posted = 0;
    int64_t residue = 0;
  };
  std::map<std::string, Sums> parties;
  {
    Rows rows = db.Query(
        "SELECT p.party_id, p.name, a.residue_pico FROM account a JOIN party p USING (party_id) "
        "WHERE a.type = 'prepaid'");
    while (rows.Next()) parties[rows.Text(0)] = {rows.Text(1), 0, 0, rows.Int(2)};
  }
  {
    Rows rows = db.Query(
        "SELECT party_id, sum(amount_pico / 1000000), sum(amount_pico % 1000000) FROM usage_event GROUP BY party_id");
    while (rows.Next()) parties[rows.Text(0)].used = static_cast<__int128>(rows.Int(1)) * 1'000'000 + rows.Int(2);
  }
  {
    Rows rows = db.Query(
        "SELECT u.party_id, sum(t.amount_micro) FROM transfer t JOIN usage_event u ON u.record_id = t.source_id "
        "WHERE t.kind = 'usage' GROUP BY u.party_id");
    while (rows.Next()) parties[rows.Text(0)].posted = static_cast<__int128>(rows.Int(1)) * 1'000'000;
  }
  std::string failure;
  int64_t orphans = 0;
  {
    Rows rows = db.Query(
        "SELECT count(*) FROM transfer t LEFT JOIN usage_event u ON u.record_id = t.source_id "
        "WHERE t.kind = 'usage' AND u.seq IS NULL");
    if (rows.Next()) orphans = rows.Int(0);
  }
  if (orphans > 0) failure = absl::StrCat(orphans, " transfers of usage that is not there");
  for (const auto& [id, sums] : parties) {
    if (sums.used == sums.posted + sums.residue) continue;
    const auto difference = static_cast<int64_t>(sums.used - sums.posted - sums.residue);
    failure = absl::StrCat(sums.name, ": usage and ledger + residue differ by ", difference, " pico-units");
  }
  Report(report, "ledger + residue = usage", failure, absl::StrCat(parties.size(), " tenants, exact to the pico-unit"));
}

void CheckRating(Database& db, v1::AuditReport* report) {
  std::map<std::string, std::vector<PriceLine>> plans;
  std::string failure;
  int64_t events = 0;
  Rows rows = db.Query(
      "SELECT seq, model, plan_version_id, prompt_tokens, cached_tokens, output_tokens, requests, amount_pico "
      "FROM usage_event");
  while (rows.Next()) {
    ++events;
    auto& lines = plans[rows.Text(2)];
    if (lines.empty()) lines = LinesOf(db, rows.Id(2)).value_or(std::vector<PriceLine>{});
    Quantities quantities;
    if (rows.Int(6) == 1) quantities = {rows.Int(3) - rows.Int(4), rows.Int(4), rows.Int(5), 1};
    absl::StatusOr<int64_t> amount = Rate(lines, rows.Text(1), quantities);
    if (amount.ok() && *amount == rows.Int(7)) continue;
    failure = absl::StrCat("usage ", rows.Int(0), ": booked ", rows.Int(7), " pico-units, rated again ",
                           amount.ok() ? absl::StrCat(*amount) : std::string(amount.status().message()));
  }
  Report(report, "usage x price = amount", failure, absl::StrCat(events, " requests rated again"));
}

void CheckPlans(Database& db, v1::AuditReport* report) {
  std::string failure;
  absl::StatusOr<v1::ListPlanVersionsResponse> all = ListPlanVersions(db, "");
  if (!all.ok()) failure = std::string(all.status().message());
  int versions = 0;
  if (all.ok()) {
    for (const v1::PlanVersion& version : all->versions()) {
      ++versions;
      if (HashOfLines(version.plan(), version.currency(), version.lines()) != version.hash()) {
        failure = absl::StrCat("plan ", version.plan(), " version ", version.number(), " is not what was published");
      }
    }
  }
  Report(report, "plan versions unchanged", failure, absl::StrCat(versions, " versions"));
}

// ---- chains ----

template <typename HashOfRow>
void CheckChain(v1::AuditReport* report, const char* name, Rows rows, int hash_column, HashOfRow hash_of) {
  std::string previous, failure;
  int64_t expected = 1;
  while (rows.Next()) {
    if (rows.Int(0) != expected) {
      failure = absl::StrCat("row ", expected, " is missing");
      break;
    }
    if (hash_of(previous, rows) != rows.Text(hash_column)) {
      failure = absl::StrCat("row ", expected, " is not what was written");
      break;
    }
    previous = rows.Text(hash_column);
    ++expected;
  }
  Report(report, name, failure, absl::StrCat(expected - 1, " rows"));
}

void CheckChains(Database& db, v1::AuditReport* report) {
  CheckChain(
      report, "transfer chain",
      db.Query("SELECT seq, transfer_id, debit_account, credit_account, amount_micro, currency, kind, source_id, "
               "reference, booked_us, hash FROM transfer ORDER BY seq"),
      10, [](const std::string& previous, const Rows& rows) {
        const std::string kind = rows.Text(6);
        return TransferHash(previous, rows.Int(0),
                            {.transfer_id = rows.Id(1),
                             .debit_account = rows.Int(2),
                             .credit_account = rows.Int(3),
                             .amount_micro = rows.Int(4),
                             .currency = rows.Text(5),
                             .kind = kind.c_str(),
                             .source_id = rows.Id(7),
                             .reference = rows.Text(8),
                             .booked_us = rows.Int(9)});
      });
  CheckChain(report, "usage chain", db.Query("SELECT " GANTRY_USAGE_CHAIN_COLUMNS " FROM usage_event ORDER BY seq"), 16,
             UsageRowHash);
  CheckChain(report, "audit log chain",
             db.Query("SELECT seq, at_us, actor, action, object, detail, hash FROM audit_log ORDER BY seq"), 6,
             [](const std::string& previous, const Rows& rows) {
               return AuditRowHash(previous, rows.Int(0), rows.Int(1), rows.Text(2), rows.Text(3), rows.Text(4),
                                   rows.Text(5));
             });
}

void CheckInvoices(Database& db, v1::AuditReport* report) {
  std::string failure, series;
  int64_t count = 0, expected = 1;
  Rows rows = db.Query("SELECT series, number, content, hash, party_id, period FROM invoice ORDER BY series, number");
  while (rows.Next()) {
    ++count;
    if (rows.Text(0) != series) expected = 1;
    series = rows.Text(0);
    v1::Invoice invoice;
    if (rows.Int(1) != expected) failure = absl::StrCat("series ", series, ": number ", expected, " is missing");
    if (Sha256(rows.Text(2)) != rows.Text(3) || !invoice.ParseFromString(rows.Text(2))) {
      failure = absl::StrCat("invoice ", series, "-", rows.Int(1), " is not what was issued");
    }
    int64_t net = 0;
    for (const v1::InvoiceLine& line : invoice.lines()) net += line.net_minor();
    if (net != invoice.net_minor()) failure = absl::StrCat("invoice ", invoice.number(), ": lines give ", net);
    Rows usage = db.Query("SELECT coalesce(sum(amount_pico), 0) FROM usage_event WHERE party_id = ? AND period = ?",
                          rows.Id(4), rows.Text(5));
    if (usage.Next() && usage.Int(0) != invoice.amount_pico()) {
      failure = absl::StrCat("invoice ", invoice.number(), ": billed ", invoice.amount_pico(), ", usage gives ",
                             usage.Int(0), " pico-units");
    }
    ++expected;
  }
  Report(report, "invoices = usage, numbers without gaps", failure, absl::StrCat(count, " final invoices"));
}

void CheckWitnesses(Database& db, v1::AuditReport* report, MatchCounts* counts) {
  *counts = CountMatches(db);
  int64_t all = 0, unmatched = 0;
  {
    Rows rows = db.Query("SELECT count(*) FROM witness_match WHERE state = 'agreed'");
    if (rows.Next()) all = rows.Int(0);
  }
  {
    Rows rows = db.Query(
        "SELECT count(*) FROM usage_event u LEFT JOIN witness_match m USING (request_id) WHERE m.state IS NULL");
    if (rows.Next()) unmatched = rows.Int(0);
  }
  std::string failure;
  if (counts->quarantined > 0) {
    failure = absl::StrCat(counts->quarantined, " requests in quarantine: more was delivered than generated");
  }
  if (unmatched > 0) failure = absl::StrCat(unmatched, " requests were never compared");
  Report(report, "witnesses agree", failure,
         absl::StrCat(all, " agree, ", counts->waiting, " wait, ", counts->w1_only, " without the worker's count, ",
                      counts->w2_only, " without the gateway's (not billed)"));
}

}  // namespace

v1::AuditReport Audit(Database& db) {
  v1::AuditReport report;
  report.set_ok(true);
  MatchCounts matches;
  CheckFile(db, &report);
  CheckAccounts(db, &report);
  CheckHeld(db, &report);
  CheckUsageIsBooked(db, &report);
  CheckRating(db, &report);
  CheckPlans(db, &report);
  CheckChains(db, &report);
  CheckInvoices(db, &report);
  CheckWitnesses(db, &report, &matches);
  report.set_open_items(static_cast<uint64_t>(matches.waiting + CountFenced(db)));
  return report;
}

}  // namespace gantry::billing
