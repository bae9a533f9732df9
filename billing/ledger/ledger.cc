#include "billing/ledger/ledger.h"

#include "billing/store/chain.h"
#include "engine/base/check.h"

namespace gantry::billing {

const char* TransferKindName(TransferKind kind) {
  switch (kind) {
    case TransferKind::kTopUp:
      return "top_up";
    case TransferKind::kPromotion:
      return "promotion";
    case TransferKind::kUsage:
      return "usage";
    case TransferKind::kUsageUnheld:
      return "usage_unheld";
    case TransferKind::kUnbilled:
      return "unbilled";
    case TransferKind::kUsageReturned:
      return "usage_returned";
    case TransferKind::kExpiry:
      return "expiry";
  }
  return "unknown";
}

Account AccountOf(Database& db, int64_t party_no, const char* type, const std::string& currency) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    Rows rows = db.Query(
        "SELECT account_no, debit_micro, credit_micro, held_micro, residue_pico FROM account "
        "WHERE party_no = ? AND type = ? AND currency = ?",
        party_no, type, currency);
    if (rows.Next()) return Account{rows.Int(0), rows.Int(1), rows.Int(2), rows.Int(3), rows.Int(4)};
    if (attempt == 0) {
      db.Execute("INSERT INTO account (party_no, type, currency) VALUES (?, ?, ?)", party_no, type, currency);
    }
  }
  return {};
}

Funds FundsOf(Database& db, const PartyRow& party) {
  Funds funds;
  Rows rows = db.Query(
      "SELECT account_no, credit_micro - debit_micro, held_micro FROM account "
      "WHERE party_no = ? AND type = 'customer' AND currency = ?",
      party.party_no, party.currency);
  if (rows.Next()) {
    funds.account_no = rows.Int(0);
    funds.posted_micro = rows.Int(1);
    funds.held_micro = rows.Int(2);
  }
  funds.available_micro = funds.posted_micro - funds.held_micro + party.credit_limit_micro;
  return funds;
}

std::string TransferHash(const std::string& previous, int64_t seq, const Transfer& t) {
  return ChainHash(previous)
      .Add(seq)
      .Add(t.debit_account)
      .Add(t.credit_account)
      .Add(t.amount_micro)
      .Add(static_cast<int64_t>(t.kind))
      .Add(t.source)
      .Add(t.reference)
      .Add(t.booked_us)
      .Finish();
}

int64_t Post(Database& db, const Transfer& t, int64_t released_micro) {
  GANTRY_CHECK(t.amount_micro > 0 && t.debit_account != t.credit_account,
               "a transfer moves money between two accounts");
  const ChainTail tail = TailOf(db.Query("SELECT seq, hash FROM transfer ORDER BY seq DESC LIMIT 1"));
  db.Execute(
      "INSERT INTO transfer (seq, debit_account, credit_account, amount_micro, kind, source, reference, booked_us, "
      "hash) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
      tail.next_seq, t.debit_account, t.credit_account, t.amount_micro, static_cast<int64_t>(t.kind), t.source,
      t.reference, t.booked_us, Blob{TransferHash(tail.hash, tail.next_seq, t)});
  // SQLite turns an overflowing sum into a float, which the STRICT column refuses: an error, never a wrong number.
  db.Execute("UPDATE account SET debit_micro = debit_micro + ?, held_micro = held_micro - ? WHERE account_no = ?",
             t.amount_micro, released_micro, t.debit_account);
  db.Execute("UPDATE account SET credit_micro = credit_micro + ? WHERE account_no = ?", t.amount_micro,
             t.credit_account);
  return tail.next_seq;
}

void ChangeHeld(Database& db, int64_t account_no, int64_t delta_micro) {
  db.Execute("UPDATE account SET held_micro = held_micro + ? WHERE account_no = ?", delta_micro, account_no);
}

}  // namespace gantry::billing
