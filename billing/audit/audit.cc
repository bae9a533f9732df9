#include "billing/audit/audit.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "billing/audit/checks.h"
#include "billing/ledger/credit.h"
#include "billing/usage/witness_match.h"

namespace gantry::billing {
namespace {

constexpr size_t kFindingsKept = 1000;
constexpr size_t kFindingsShown = 5;  // of a check, in the report

}  // namespace

void Findings::Begin(const char* check) {
  checks_.push_back({.name = check});
}

Findings::Check* Findings::Of(const char* check) {
  for (Check& known : checks_) {
    if (known.name == check) return &known;
  }
  Begin(check);
  return &checks_.back();
}

void Findings::Figures(const char* check, std::string figures) {
  Of(check)->figures = std::move(figures);
}

void Findings::Add(const char* check, std::string row, std::string detail, int64_t party_no) {
  Check* of = Of(check);
  ++of->failures;
  if (findings_.size() == kFindingsKept) return;
  of->findings.push_back(findings_.size());
  findings_.push_back({check, std::move(row), std::move(detail), party_no});
}

std::string Beyond(__int128 amount, absl::string_view unit) {
  return absl::StrCat(static_cast<int64_t>(amount < 0 ? -amount : amount), " ", unit, amount < 0 ? " less" : " more",
                      " than");
}

std::string BeyondTransfers(const AuditedAccount& account, __int128 debit_micro, __int128 credit_micro) {
  return absl::StrCat("debits are ", Beyond(account.debit_micro - debit_micro), " its transfers give, credits ",
                      Beyond(account.credit_micro - credit_micro), " they give");
}

bool Findings::any(const char* check) const {
  for (const Check& known : checks_) {
    if (known.name == check) return known.failures > 0;
  }
  return false;
}

AuditResult Findings::Take() {
  AuditResult result;
  result.report.set_ok(true);
  for (const Check& check : checks_) {
    v1::AuditCheck* row = result.report.add_checks();
    row->set_name(check.name);
    row->set_ok(check.failures == 0);
    if (check.failures == 0) {
      row->set_detail(check.figures);
      continue;
    }
    result.report.set_ok(false);
    std::string detail;
    for (size_t i = 0; i < std::min(check.findings.size(), kFindingsShown); ++i) {
      const Finding& finding = findings_[check.findings[i]];
      absl::StrAppend(&detail, detail.empty() ? "" : "; ", finding.row, ": ", finding.detail);
    }
    const auto more = check.failures - static_cast<int64_t>(std::min(check.findings.size(), kFindingsShown));
    if (more > 0) absl::StrAppend(&detail, "; and ", more, " more");
    row->set_detail(std::move(detail));
  }
  result.findings = std::move(findings_);
  return result;
}

AuditResult AuditBooks(Database& db) {
  Findings findings;
  CheckFile(db, &findings);
  const CreditTaken taken = CheckUsageAndTransfers(db, &findings);
  CheckHeld(db, &findings);
  CheckSpent(db, taken, &findings);
  CheckBudgets(db, taken, &findings);
  CheckLots(db, &findings);
  CheckPlans(db, &findings);
  CheckLogChain(db, &findings);
  CheckSeals(db, &findings);
  CheckInvoices(db, &findings);
  CheckInvoiceBooks(db, &findings);
  CheckWitnesses(db, &findings);
  AuditResult result = findings.Take();
  result.report.set_open_items(static_cast<uint64_t>(CountMatches(db).waiting + CountFenced(db)));
  return result;
}

v1::AuditReport Audit(Database& db) {
  return AuditBooks(db).report;
}

}  // namespace gantry::billing
