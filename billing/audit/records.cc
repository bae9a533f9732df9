#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "billing/audit/checks.h"
#include "billing/catalog/admin_log.h"
#include "billing/catalog/plans.h"
#include "billing/usage/rollup.h"
#include "services/common/digest.h"

namespace gantry::billing {

void CheckPlans(Database& db, Findings* findings) {
  findings->Begin(check::kPlans);
  std::vector<Id16> ids;
  {
    Rows rows = db.Query("SELECT plan_version_id FROM plan_version");
    while (rows.Next()) ids.push_back(rows.Id(0));
  }
  for (const Id16& id : ids) {
    absl::StatusOr<PlanTerms> terms = ReadTerms(db, id);
    if (terms.ok() && HashOfTerms(*terms) == terms->hash) continue;
    if (terms.ok()) {
      findings->Add(check::kPlans, absl::StrCat("plan_version ", terms->version_no),
                    absl::StrCat("plan ", terms->plan, " version ", terms->number, " is not what was published"));
    } else {
      findings->Add(check::kPlans, absl::StrCat("plan_version ", id.ToHex()), std::string(terms.status().message()));
    }
  }
  findings->Figures(check::kPlans, absl::StrCat(ids.size(), " versions"));
}

void CheckLogChain(Database& db, Findings* findings) {
  findings->Begin(check::kLogChain);
  std::string previous;
  int64_t last = 0;
  Rows rows = db.Query("SELECT seq, at_us, actor, action, object, detail, hash FROM audit_log ORDER BY seq");
  while (rows.Next()) {
    const int64_t seq = rows.Int(0);
    if (seq != last + 1) {
      findings->Add(check::kLogChain, absl::StrCat("audit_log ", last + 1), "is missing");
    } else if (AuditRowHash(previous, seq, rows.Int(1), rows.Text(2), rows.Text(3), rows.Text(4), rows.Text(5)) !=
               rows.View(6)) {
      findings->Add(check::kLogChain, absl::StrCat("audit_log ", seq), "is not what was written");
    }
    previous = rows.Text(6);
    last = seq;
  }
  findings->Figures(check::kLogChain, absl::StrCat(last, " rows"));
}

void CheckInvoices(Database& db, Findings* findings) {
  findings->Begin(check::kInvoices);
  std::string series;
  int64_t count = 0, expected = 1;
  Rows rows = db.Query(
      "SELECT series, number, content, hash, party_no, period, EXISTS (SELECT 1 FROM invoice_void v WHERE v.invoice_no "
      "= "
      "i.invoice_no) FROM invoice i ORDER BY series, number");
  while (rows.Next()) {
    ++count;
    const int64_t party = rows.Int(4);
    if (rows.View(0) != series) expected = 1;
    series = rows.Text(0);
    const std::string name = absl::StrCat("invoice ", series, "-", rows.Int(1));
    const auto wrong = [&](std::string detail) { findings->Add(check::kInvoices, name, std::move(detail), party); };
    v1::Invoice invoice;
    if (rows.Int(1) != expected) wrong(absl::StrCat("number ", expected, " of the series is missing"));
    if (Sha256(rows.View(2)) != rows.View(3) || !invoice.ParseFromString(rows.Text(2))) {
      wrong("is not what was issued");
    }
    if (invoice.number() != absl::StrFormat("%s-%06d", series, rows.Int(1))) {
      wrong(absl::StrCat("was issued as ", invoice.number()));
    }
    __int128 used = 0;
    int64_t net = 0, billed = 0;
    for (const v1::InvoiceLine& line : invoice.lines()) {
      net += line.net_minor();
      if (line.kind() == "usage") billed += line.amount_pico();
    }
    if (net != invoice.net_minor()) wrong(absl::StrCat("its lines give ", net));
    for (const RollupRow& row : RollupOf(db, party, rows.Int(5))) used += row.amount_pico;
    // The period of a void one is open again, or stands on another invoice.
    if (used != billed && rows.Int(6) == 0) {
      wrong(absl::StrCat("billed ", billed, ", usage of its party and period gives ", static_cast<int64_t>(used),
                         " pico-units"));
    }
    expected = rows.Int(1) + 1;
  }
  findings->Figures(check::kInvoices, absl::StrCat(count, " final invoices"));
}

}  // namespace gantry::billing
