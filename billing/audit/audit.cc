#include "billing/audit/audit.h"

#include "billing/audit/checks.h"
#include "billing/ledger/credit.h"
#include "billing/usage/witness_match.h"

namespace gantry::billing {

void Report(v1::AuditReport* report, const char* name, const std::string& failure, const std::string& figures) {
  v1::AuditCheck* check = report->add_checks();
  check->set_name(name);
  check->set_ok(failure.empty());
  check->set_detail(failure.empty() ? figures : failure);
  if (!failure.empty()) report->set_ok(false);
}

v1::AuditReport Audit(Database& db) {
  v1::AuditReport report;
  report.set_ok(true);
  CheckFile(db, &report);
  CheckAccounts(db, &report);
  CheckHeld(db, &report);
  CheckLots(db, &report);
  CheckUsageIsBooked(db, &report);
  CheckRating(db, &report);
  CheckPlans(db, &report);
  CheckChains(db, &report);
  CheckInvoices(db, &report);
  CheckInvoiceBooks(db, &report);
  CheckWitnesses(db, &report);
  report.set_open_items(static_cast<uint64_t>(CountMatches(db).waiting + CountFenced(db)));
  return report;
}

}  // namespace gantry::billing
