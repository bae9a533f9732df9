#include "billing/ledger/lots.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/ledger/lot_use.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

void AddLot(Journal& journal, const Account& account, int64_t balance_before_micro, const Credit& credit,
            int64_t transfer_seq, int64_t now_us) {
  journal.ForgetLot(account);
  const int64_t paid = std::min(std::max<int64_t>(0, -balance_before_micro), credit.amount_micro);
  journal.db().Execute(
      "INSERT INTO credit_lot (account_no, kind, priority, amount_micro, left_micro, granted_us, expires_us, "
      "transfer_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
      account.account_no, static_cast<int64_t>(credit.kind), credit.priority, credit.amount_micro,
      credit.amount_micro - paid, now_us, credit.expires_us, transfer_seq);
  if (credit.kind != LotKind::kPromotional) return;
  RecordDebtPaid(journal.db(), account.account_no, journal.db().LastRowId(), paid);
}

absl::Status PostCredit(Database& db, const PartyRow& party, const Credit& credit, int64_t now_us) {
  Journal journal(db);
  Account& customer = journal.Open(party.party_no, "customer", party.currency);
  const int64_t balance_before = customer.balance_micro();
  if (customer.credit_micro > std::numeric_limits<int64_t>::max() / 4 - credit.amount_micro) {
    return absl::OutOfRangeError("the account cannot hold that much");
  }
  const bool bought = credit.kind == LotKind::kBought;
  const Account& source = journal.Open(party.parent_no, bought ? "cash" : "promotion", party.currency);
  const int64_t seq = journal.Post({.debit_account = source.account_no,
                                    .credit_account = customer.account_no,
                                    .amount_micro = credit.amount_micro,
                                    .kind = bought ? TransferKind::kTopUp : TransferKind::kPromotion,
                                    .reference = credit.reference,
                                    .booked_us = now_us});
  AddLot(journal, customer, balance_before, credit, seq, now_us);
  return absl::OkStatus();
}

int64_t ForfeitLots(Database& db, const PartyRow& party, int64_t now_us) {
  std::vector<std::pair<int64_t, int64_t>> lots;
  {
    Rows rows = db.Query(
        "SELECT l.lot_no, l.left_micro FROM credit_lot l JOIN account a USING (account_no) "
        "WHERE a.party_no = ? AND a.type = 'customer' AND a.currency = ? AND l.left_micro > 0",
        party.party_no, party.currency);
    while (rows.Next()) lots.emplace_back(rows.Int(0), rows.Int(1));
  }
  int64_t forfeited = 0;
  Journal journal(db);
  const Account& customer = journal.Open(party.party_no, "customer", party.currency);
  const Account& breakage = journal.Open(party.parent_no, "breakage", party.currency);
  journal.ForgetLot(customer);
  for (const auto& [lot_no, left] : lots) {
    journal.Post({.debit_account = customer.account_no,
                  .credit_account = breakage.account_no,
                  .amount_micro = left,
                  .kind = TransferKind::kExpiry,
                  .source = lot_no,
                  .reference = absl::StrCat("credit lot ", lot_no, ", party closed"),
                  .booked_us = now_us});
    db.Execute("UPDATE credit_lot SET left_micro = 0 WHERE lot_no = ?", lot_no);
    forfeited += left;
  }
  return forfeited;
}

std::vector<LotShare> UseLotsOfKind(Journal& journal, const Account& account, LotKind kind, int64_t micro) {
  // The lot that the journal has in use may be one of them.
  journal.ForgetLot(account);
  std::vector<LotShare> shares;
  {
    int64_t found = 0;
    Rows rows = journal.db().Query(
        "SELECT lot_no, left_micro FROM credit_lot WHERE account_no = ? AND kind = ? AND left_micro > 0 "
        "ORDER BY priority, expires_us, lot_no",
        account.account_no, static_cast<int64_t>(kind));
    while (found < micro && rows.Next()) {
      shares.push_back({rows.Int(0), std::min(rows.Int(1), micro - found)});
      found += shares.back().micro;
    }
  }
  for (const LotShare& share : shares) {
    journal.db().Execute("UPDATE credit_lot SET left_micro = left_micro - ? WHERE lot_no = ?", share.micro,
                         share.lot_no);
  }
  return shares;
}

LotUse LotUseOf(Database& db, int64_t account_no, LotKind kind, int64_t granted_before_us) {
  LotUse use;
  {
    Rows rows = db.Query(
        "SELECT coalesce(sum(amount_micro - left_micro), 0) FROM credit_lot "
        "WHERE account_no = ? AND kind = ? AND granted_us < ?",
        account_no, static_cast<int64_t>(kind), granted_before_us);
    if (rows.Next()) use.used_micro = rows.Int(0);
  }
  Rows rows = db.Query(
      "SELECT coalesce(sum(t.amount_micro), 0) FROM transfer t JOIN credit_lot l ON l.lot_no = t.source "
      "WHERE t.debit_account = ?1 AND t.kind > 3 AND t.kind = 7 AND l.kind = ?2 AND l.granted_us < ?3",
      account_no, static_cast<int64_t>(kind), granted_before_us);
  if (rows.Next()) use.expired_micro = rows.Int(0);
  use.used_micro -= use.expired_micro;
  return use;
}

absl::StatusOr<int> ExpireLots(Database& db, int64_t now_us, int limit) {
  struct Expired {
    int64_t lot, account, left, party;
    std::string currency;
  };
  std::vector<Expired> expired;
  {
    // Nothing to do for a lot that is held as a whole: it is asked for again.
    Rows rows = db.Query(
        "SELECT l.lot_no, l.account_no, l.left_micro, a.party_no, a.currency FROM credit_lot l JOIN account a USING "
        "(account_no) WHERE l.left_micro > 0 AND l.expires_us <= ? "
        "AND a.credit_micro - a.debit_micro > a.held_micro ORDER BY l.expires_us, l.lot_no LIMIT ?",
        now_us, limit);
    while (rows.Next()) {
      expired.push_back({rows.Int(0), rows.Int(1), rows.Int(2), rows.Int(3), rows.Text(4)});
    }
  }
  int booked = 0;
  for (const Expired& e : expired) {
    GANTRY_ASSIGN_OR_RETURN(PartyRow party, PartyByNo(db, e.party));
    Journal journal(db);
    const Account& customer = journal.Open(e.party, "customer", e.currency);
    const int64_t free = customer.balance_micro() - customer.held_micro;  // less than before, once a lot has gone
    const int64_t amount = std::min(e.left, free);
    if (amount <= 0) continue;
    const Account& breakage = journal.Open(party.parent_no, "breakage", e.currency);
    journal.Post({.debit_account = customer.account_no,
                  .credit_account = breakage.account_no,
                  .amount_micro = amount,
                  .kind = TransferKind::kExpiry,
                  .source = e.lot,
                  .reference = absl::StrCat("credit lot ", e.lot, " expired"),
                  .booked_us = now_us});
    db.Execute("UPDATE credit_lot SET left_micro = left_micro - ? WHERE lot_no = ?", amount, e.lot);
    ++booked;
  }
  return booked;
}

}  // namespace gantry::billing
