#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "billing/audit/checks.h"
#include "billing/invoice/currency.h"

namespace gantry::billing {

// Every check is one query that lists what is wrong, or one pass over a table.

AuditedAccounts ReadAccounts(Database& db) {
  AuditedAccounts accounts;
  Rows rows =
      db.Query("SELECT account_no, party_no, type, currency, debit_micro, credit_micro, residue_pico FROM account");
  while (rows.Next()) {
    accounts[rows.Int(0)] = {rows.Int(1), rows.Text(2), rows.Text(3), rows.Int(4), rows.Int(5), rows.Int(6)};
  }
  return accounts;
}

void CheckFile(Database& db, Findings* findings) {
  findings->Begin(check::kFile);
  Rows rows = db.Query("PRAGMA quick_check(1)");
  if (rows.Next() && rows.Text(0) != "ok") findings->Add(check::kFile, "file", rows.Text(0));
  findings->Figures(check::kFile, "pages and rows are well-formed");
}

void CheckHeld(Database& db, Findings* findings) {
  findings->Begin(check::kHeld);
  int64_t total = 0;
  {
    Rows rows = db.Query(
        "SELECT a.account_no, p.name, a.party_no, a.held_micro, "
        "(SELECT coalesce(sum(granted_micro - spent_micro - returned_micro), 0) FROM slice s "
        " WHERE s.party_no = a.party_no AND s.open = 1) + "
        "(SELECT coalesce(sum(held_micro), 0) FROM hold h WHERE h.party_no = a.party_no AND h.state = 1) + "
        "(SELECT coalesce(sum(granted_micro - spent_micro - returned_micro), 0) FROM credit_hop c "
        " WHERE c.party_no = a.party_no AND c.open = 1) "
        "FROM account a LEFT JOIN party p USING (party_no) WHERE a.type = 'customer' OR a.held_micro <> 0");
    while (rows.Next()) {
      total += rows.Int(3);
      if (rows.Int(3) == rows.Int(4)) continue;
      findings->Add(check::kHeld, absl::StrCat("account ", rows.Int(0)),
                    absl::StrCat(rows.Text(1), ": held is ", Beyond(static_cast<__int128>(rows.Int(3)) - rows.Int(4)),
                                 " what open slices and pending holds give"),
                    rows.Int(2));
    }
  }
  findings->Figures(check::kHeld, absl::StrCat(total, " micro-units"));

  findings->Begin(check::kOverdraft);
  // Usage never takes a balance below what is held. Invoices may: tax, and what lacked of a minimum. They are open
  // then.
  Rows rows = db.Query(
      "SELECT a.account_no, p.name, a.party_no, a.credit_micro - a.debit_micro - a.held_micro + p.credit_limit_micro, "
      "p.currency, (SELECT coalesce(sum(gross_minor - credited_minor - allocated_minor), 0) FROM receivable r "
      " WHERE r.party_no = a.party_no AND r.open = 1) FROM account a JOIN party p USING (party_no) "
      "WHERE a.type = 'customer' AND a.credit_micro - a.debit_micro - a.held_micro + p.credit_limit_micro < 0");
  while (rows.Next()) {
    const __int128 open_micro =
        static_cast<__int128>(rows.Int(5)) * MicroPerMinor(static_cast<uint32_t>(MinorDigits(rows.Text(4))));
    if (rows.Int(3) + open_micro >= 0) continue;
    findings->Add(check::kOverdraft, absl::StrCat("account ", rows.Int(0)),
                  absl::StrCat(rows.Text(1), ": available ", rows.Int(3), " micro-units"), rows.Int(2));
  }
  findings->Figures(check::kOverdraft, "every balance covers what is held, beside open invoices");
}

namespace {

// What is written down of who paid for usage and for what invoices posted: of events that there are (the chain of usage
// has no gaps), of a promotional lot exactly what it has lost but for expiry, and of no other more than that.
void CheckLotUse(Database& db, Findings* findings) {
  int64_t last_event = 0;
  {
    Rows rows = db.Query("SELECT max(seq) FROM usage_event");
    if (rows.Next()) last_event = rows.Int(0);
  }
  std::map<std::pair<int64_t, int64_t>, __int128> used;  // by lot and account
  {
    Rows rows = db.Query("SELECT event_seq, account_no, lot_no, micro FROM lot_use");
    while (rows.Next()) {
      if (rows.Int(0) > last_event) {
        findings->Add(check::kLots, absl::StrCat("lot_use ", rows.Int(0), "/", rows.Int(1), "/", rows.Int(2)),
                      "is for usage that is not there");
      }
      if (rows.Int(2) != 0) used[{rows.Int(2), rows.Int(1)}] += rows.Int(3);
    }
  }
  {
    Rows rows = db.Query(
        "SELECT p.transfer_seq, p.lot_no, p.micro, t.debit_account, t.kind BETWEEN 8 AND 12 FROM posting_use p LEFT "
        "JOIN "
        "transfer t ON t.seq = p.transfer_seq");
    while (rows.Next()) {
      if (rows.Int(4) == 0) {
        findings->Add(check::kLots, absl::StrCat("posting_use ", rows.Int(0), "/", rows.Int(1)),
                      "is for no posting of a document");
      }
      if (rows.Int(1) != 0) used[{rows.Int(1), rows.Int(3)}] += rows.Int(2);
    }
  }
  // Lots of which nothing is written down have lost nothing, if they were given.
  {
    Rows rows = db.Query("SELECT lot_no, account_no FROM credit_lot WHERE kind = 1");
    while (rows.Next()) used.try_emplace({rows.Int(0), rows.Int(1)}, 0);
  }
  for (const auto& [key, micro] : used) {
    Rows rows = db.Query(
        "SELECT l.amount_micro - l.left_micro - (SELECT coalesce(sum(t.amount_micro), 0) FROM transfer t WHERE "
        "t.source = l.lot_no AND t.kind > 3 AND t.kind = 7), a.party_no, l.kind = 1 FROM credit_lot l JOIN account a "
        "USING (account_no) WHERE l.lot_no = ? AND l.account_no = ?",
        key.first, key.second);
    const bool known = rows.Next();
    if (known && micro >= 0 && (rows.Int(2) == 1 ? micro == rows.Int(0) : micro <= rows.Int(0))) continue;
    findings->Add(check::kLots, absl::StrCat("credit_lot ", key.first),
                  absl::StrCat("has lost ", known ? rows.Int(0) : 0, ", lot_use and posting_use give ",
                               static_cast<int64_t>(micro)),
                  known ? rows.Int(1) : 0);
  }
}

}  // namespace

void CheckLots(Database& db, Findings* findings) {
  findings->Begin(check::kLots);
  int64_t lots = 0;
  {
    Rows rows = db.Query(
        "SELECT a.account_no, a.party_no, max(a.credit_micro - a.debit_micro, 0), coalesce(sum(l.left_micro), 0), "
        "count(l.lot_no), group_concat(l.lot_no, ', ') "
        "FROM account a LEFT JOIN credit_lot l USING (account_no) WHERE a.type = 'customer' GROUP BY a.account_no");
    while (rows.Next()) {
      lots += rows.Int(4);
      if (rows.Int(2) == rows.Int(3)) continue;
      findings->Add(check::kLots, absl::StrCat("account ", rows.Int(0)),
                    absl::StrCat("the balance is ", Beyond(static_cast<__int128>(rows.Int(2)) - rows.Int(3)),
                                 " what is left of credit_lot ", rows.Text(5)),
                    rows.Int(1));
    }
  }
  Rows rows = db.Query(
      "SELECT l.lot_no, coalesce(a.party_no, 0) FROM credit_lot l LEFT JOIN account a USING (account_no) "
      "LEFT JOIN transfer t ON t.seq = l.transfer_seq WHERE t.seq IS NULL OR t.credit_account <> l.account_no "
      "OR a.type IS NOT 'customer'");
  while (rows.Next()) {
    findings->Add(check::kLots, absl::StrCat("credit_lot ", rows.Int(0)),
                  "no transfer to its customer account brought it", rows.Int(1));
  }
  CheckLotUse(db, findings);
  findings->Figures(check::kLots, absl::StrCat(lots, " lots"));
}

void CheckSeals(Database& db, Findings* findings) {
  findings->Begin(check::kSeals);
  int64_t sealed = 0;
  // Rows of (key, party, whether it is as it was sealed); keys of 16 bytes in hex.
  const auto check = [&](const char* table, bool hex, Rows rows) {
    while (rows.Next()) {
      ++sealed;
      if (rows.Int(2) != 0) continue;
      const std::string key = hex ? absl::BytesToHexString(rows.Text(0)) : absl::StrCat(rows.Int(0));
      findings->Add(check::kSeals, absl::StrCat(table, " ", key), "not what it was when it was sealed", rows.Int(1));
    }
  };
  check("account", false,
        db.Query("SELECT account_no, party_no, seal IS gantry_row_hash(account_no, party_no, type, currency) "
                 "FROM account"));
  check("credit_lot", false,
        db.Query("SELECT l.lot_no, coalesce(a.party_no, 0), l.seal IS gantry_row_hash(l.lot_no, l.account_no, l.kind, "
                 "l.priority, l.amount_micro, l.granted_us, l.expires_us, l.transfer_seq) "
                 "FROM credit_lot l LEFT JOIN account a USING (account_no)"));
  {
    Rows rows = db.Query(
        "SELECT u.event_seq, u.account_no, u.lot_no, coalesce(a.party_no, 0), u.seal IS gantry_row_hash(u.event_seq, "
        "u.account_no, u.lot_no, u.micro) FROM lot_use u LEFT JOIN account a USING (account_no)");
    while (rows.Next()) {
      ++sealed;
      if (rows.Int(4) != 0) continue;
      findings->Add(check::kSeals, absl::StrCat("lot_use ", rows.Int(0), "/", rows.Int(1), "/", rows.Int(2)),
                    "not what it was when it was sealed", rows.Int(3));
    }
  }
  {
    Rows rows = db.Query(
        "SELECT p.transfer_seq, p.lot_no, coalesce(a.party_no, 0), p.seal IS gantry_row_hash(p.transfer_seq, p.lot_no, "
        "p.micro) FROM posting_use p LEFT JOIN transfer t ON t.seq = p.transfer_seq LEFT JOIN account a ON "
        "a.account_no "
        "= t.debit_account");
    while (rows.Next()) {
      ++sealed;
      if (rows.Int(3) != 0) continue;
      findings->Add(check::kSeals, absl::StrCat("posting_use ", rows.Int(0), "/", rows.Int(1)),
                    "not what it was when it was sealed", rows.Int(2));
    }
  }
  check("hold", true,
        db.Query("SELECT hold_id, party_no, seal IS iif(state = 1, NULL, gantry_row_hash(hold_id, party_no, "
                 "gateway_no, gateway_epoch, request_id, first_micro, held_micro, settled_micro, extensions, "
                 "last_extension_micro, state, granted_us)) FROM hold"));
  check("slice", true,
        db.Query("SELECT slice_id, party_no, seal IS iif(open = 1, NULL, gantry_row_hash(slice_id, party_no, "
                 "gateway_no, gateway_epoch, wanted_micro, minimum_micro, granted_micro, spent_micro, returned_micro, "
                 "open, granted_us)) FROM slice"));
  check("credit_hop", true,
        db.Query("SELECT credit_id, party_no, seal IS iif(open = 1, NULL, gantry_row_hash(credit_id, party_no, "
                 "granted_micro, spent_micro, returned_micro, open)) FROM credit_hop"));
  findings->Figures(check::kSeals, absl::StrCat(sealed, " rows"));
}

}  // namespace gantry::billing
