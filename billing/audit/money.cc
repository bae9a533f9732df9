#include <map>

#include "absl/strings/str_cat.h"
#include "billing/audit/checks.h"
#include "billing/invoice/draft.h"

namespace gantry::billing {

// Every check is one query that lists what is wrong, or one pass over a table.

void CheckFile(Database& db, v1::AuditReport* report) {
  std::string failure;
  Rows rows = db.Query("PRAGMA quick_check(1)");
  if (rows.Next() && rows.Text(0) != "ok") failure = rows.Text(0);
  Report(report, "database file", failure, "pages and rows are well-formed");
}

void CheckAccounts(Database& db, v1::AuditReport* report) {
  struct Sums {
    __int128 debit = 0, credit = 0;
  };
  std::map<int64_t, Sums> sums;
  {
    Rows rows = db.Query("SELECT debit_account, credit_account, amount_micro FROM transfer");
    while (rows.Next()) {
      sums[rows.Int(0)].debit += rows.Int(2);
      sums[rows.Int(1)].credit += rows.Int(2);
    }
  }
  std::string failure;
  int64_t accounts = 0;
  {
    Rows rows = db.Query("SELECT account_no, debit_micro, credit_micro FROM account");
    while (rows.Next()) {
      ++accounts;
      const Sums& s = sums[rows.Int(0)];
      if (rows.Int(1) == s.debit && rows.Int(2) == s.credit) continue;
      failure =
          absl::StrCat("account ", rows.Int(0), ": debits ", rows.Int(1), ", credits ", rows.Int(2),
                       "; its transfers give ", static_cast<int64_t>(s.debit), " and ", static_cast<int64_t>(s.credit));
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
        " WHERE s.party_no = a.party_no AND s.open = 1) + "
        "(SELECT coalesce(sum(held_micro), 0) FROM hold h WHERE h.party_no = a.party_no AND h.state = 1) + "
        "(SELECT coalesce(sum(granted_micro - spent_micro - returned_micro), 0) FROM credit_hop c "
        " WHERE c.party_no = a.party_no AND c.open = 1) "
        "FROM account a JOIN party p USING (party_no) WHERE a.type = 'customer'");
    while (rows.Next()) {
      total += rows.Int(1);
      if (rows.Int(1) == rows.Int(2)) continue;
      failure =
          absl::StrCat(rows.Text(0), ": held ", rows.Int(1), ", open slices and pending holds give ", rows.Int(2));
    }
  }
  Report(report, "held = open slices + pending holds", failure, absl::StrCat(total, " micro-units"));

  failure.clear();
  // Usage never takes a balance below what is held. Invoices may: tax, and what lacked of a minimum. They are open
  // then.
  Rows rows = db.Query(
      "SELECT p.name, a.credit_micro - a.debit_micro - a.held_micro + p.credit_limit_micro AS available, p.currency, "
      "(SELECT coalesce(sum(gross_minor - credited_minor - allocated_minor), 0) FROM receivable r "
      " WHERE r.party_no = a.party_no AND r.open = 1) FROM account a JOIN party p USING (party_no) "
      "WHERE a.type = 'customer' AND a.credit_micro - a.debit_micro - a.held_micro + p.credit_limit_micro < 0");
  while (rows.Next()) {
    const __int128 open_micro =
        static_cast<__int128>(rows.Int(3)) * MicroPerMinor(static_cast<uint32_t>(MinorDigits(rows.Text(2))));
    if (rows.Int(1) + open_micro >= 0) continue;
    failure = absl::StrCat(rows.Text(0), ": available ", rows.Int(1), " micro-units");
  }
  Report(report, "no overdraft", failure, "every balance covers what is held, beside open invoices");
}

void CheckLots(Database& db, v1::AuditReport* report) {
  std::string failure;
  int64_t lots = 0;
  Rows rows = db.Query(
      "SELECT a.account_no, max(a.credit_micro - a.debit_micro, 0), coalesce(sum(l.left_micro), 0), count(l.lot_no) "
      "FROM account a LEFT JOIN credit_lot l USING (account_no) WHERE a.type = 'customer' GROUP BY a.account_no");
  while (rows.Next()) {
    lots += rows.Int(3);
    if (rows.Int(1) == rows.Int(2)) continue;
    failure =
        absl::StrCat("account ", rows.Int(0), ": balance ", rows.Int(1), ", its lots have ", rows.Int(2), " left");
  }
  Report(report, "lots = balances", failure, absl::StrCat(lots, " lots"));
}

// Σ usage in pico = Σ posted x 10^6 + residue, per buyer, in 128 bits. A posting belongs to the hop whose seller's
// revenue it went to or came from; losses of the house (unbilled_loss) belong to no hop.
void CheckUsageIsBooked(Database& db, v1::AuditReport* report) {
  struct Sums {
    __int128 used = 0, posted = 0;
    int64_t residue = 0;
    std::string name;
  };
  std::map<int64_t, Sums> buyers;
  {
    Rows rows = db.Query(
        "SELECT party_no, p.name, a.residue_pico FROM account a JOIN party p USING (party_no) "
        "WHERE a.type = 'customer'");
    while (rows.Next()) buyers[rows.Int(0)] = {0, 0, rows.Int(2), rows.Text(1)};
  }
  {
    Rows rows = db.Query("SELECT buyer_no, amount_pico FROM rating");
    while (rows.Next()) buyers[rows.Int(0)].used += rows.Int(1);
  }
  std::string failure;
  {
    Rows rows = db.Query(
        "SELECT r.buyer_no, t.seq, CASE t.kind WHEN 6 THEN -t.amount_micro ELSE t.amount_micro END "
        "FROM transfer t JOIN account s ON s.account_no = CASE t.kind WHEN 6 THEN t.debit_account ELSE "
        "t.credit_account "
        "END JOIN account o ON o.account_no = CASE t.kind WHEN 6 THEN t.credit_account ELSE t.debit_account END "
        "LEFT JOIN rating r ON r.event_seq = t.source AND r.seller_no = s.party_no "
        "WHERE t.kind IN (3, 4, 6) AND o.type <> 'unbilled_loss'");
    while (rows.Next()) {
      if (rows.IsNull(0)) {
        failure = absl::StrCat("transfer ", rows.Int(1), " is for usage that is not there");
        continue;
      }
      buyers[rows.Int(0)].posted += static_cast<__int128>(rows.Int(2)) * 1'000'000;
    }
  }
  for (const auto& [no, sums] : buyers) {
    if (sums.used == sums.posted + sums.residue) continue;
    failure = absl::StrCat(sums.name, ": usage and ledger + residue differ by ",
                           static_cast<int64_t>(sums.used - sums.posted - sums.residue), " pico-units");
  }
  Report(report, "ledger + residue = usage", failure, absl::StrCat(buyers.size(), " buyers, exact to the pico-unit"));
}

}  // namespace gantry::billing
