#include "billing/ledger/ledger.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "billing/store/chain.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

absl::StatusOr<House> HouseOf(Database& db) {
  Rows rows = db.Query("SELECT party_id, currency FROM party WHERE kind = 1");
  if (!rows.Next()) {
    return absl::FailedPreconditionError("there is no house party yet; create one of kind house first");
  }
  return House{rows.Id(0), rows.Text(1)};
}

Account AccountOf(Database& db, const Id16& party_id, const char* type, const std::string& currency) {
  Account account;
  for (int attempt = 0; attempt < 2; ++attempt) {
    Rows rows = db.Query(
        "SELECT account_id, debit_micro, credit_micro, held_micro, residue_pico FROM account "
        "WHERE party_id = ? AND type = ? AND currency = ?",
        party_id, type, currency);
    if (rows.Next()) return Account{rows.Int(0), rows.Int(1), rows.Int(2), rows.Int(3), rows.Int(4)};
    if (attempt == 0) {
      db.Execute("INSERT INTO account (party_id, type, currency) VALUES (?, ?, ?)", party_id, type, currency);
    }
  }
  return account;
}

absl::StatusOr<Funds> FundsOf(Database& db, const Id16& party_id) {
  Rows rows = db.Query(
      "SELECT p.currency, p.credit_limit_micro, a.account_id, a.credit_micro - a.debit_micro, a.held_micro FROM party "
      "p "
      "LEFT JOIN account a ON a.party_id = p.party_id AND a.type = 'prepaid' AND a.currency = p.currency "
      "WHERE p.party_id = ?",
      party_id);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no party with id ", party_id.ToHex()));
  Funds funds;
  funds.currency = rows.Text(0);
  funds.account_id = rows.Int(2);
  funds.posted_micro = rows.Int(3);
  funds.held_micro = rows.Int(4);
  funds.available_micro = funds.posted_micro - funds.held_micro + rows.Int(1);
  return funds;
}

std::string TransferHash(const std::string& previous, int64_t seq, const Transfer& t) {
  return ChainHash(previous)
      .Add(seq)
      .Add(t.transfer_id)
      .Add(t.debit_account)
      .Add(t.credit_account)
      .Add(t.amount_micro)
      .Add(t.currency)
      .Add(t.kind)
      .Add(t.source_id)
      .Add(t.reference)
      .Add(t.booked_us)
      .Finish();
}

absl::Status Post(Database& db, const Transfer& t) {
  GANTRY_CHECK(t.amount_micro > 0 && t.debit_account != t.credit_account,
               "a transfer moves money between two accounts");
  const ChainTail tail = TailOf(db.Query("SELECT seq, hash FROM transfer ORDER BY seq DESC LIMIT 1"));
  db.Execute(
      "INSERT INTO transfer (seq, transfer_id, debit_account, credit_account, amount_micro, currency, kind, source_id, "
      "reference, booked_us, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      tail.next_seq, t.transfer_id, t.debit_account, t.credit_account, t.amount_micro, t.currency, t.kind, t.source_id,
      t.reference, t.booked_us, Blob{TransferHash(tail.hash, tail.next_seq, t)});
  // SQLite turns an overflowing sum into a float, which the STRICT column refuses: an error, never a wrong number.
  db.Execute("UPDATE account SET debit_micro = debit_micro + ? WHERE account_id = ?", t.amount_micro, t.debit_account);
  db.Execute("UPDATE account SET credit_micro = credit_micro + ? WHERE account_id = ?", t.amount_micro,
             t.credit_account);
  return absl::OkStatus();
}

absl::Status PostTopUp(Database& db, const Id16& transfer_id, const Id16& party_id, int64_t amount_micro,
                       const std::string& reference, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(House house, HouseOf(db));
  GANTRY_ASSIGN_OR_RETURN(Funds funds, FundsOf(db, party_id));
  const Account prepaid = AccountOf(db, party_id, "prepaid", funds.currency);
  const Account cash = AccountOf(db, house.party_id, "cash", funds.currency);
  if (prepaid.credit_micro > std::numeric_limits<int64_t>::max() / 4 - amount_micro) {
    return absl::OutOfRangeError("the account cannot hold that much");
  }
  return Post(db, {.transfer_id = transfer_id,
                   .debit_account = cash.account_id,
                   .credit_account = prepaid.account_id,
                   .amount_micro = amount_micro,
                   .currency = funds.currency,
                   .kind = "top_up",
                   .source_id = transfer_id,
                   .reference = reference,
                   .booked_us = now_us});
}

void ChangeHeld(Database& db, int64_t account_id, int64_t delta_micro) {
  db.Execute("UPDATE account SET held_micro = held_micro + ? WHERE account_id = ?", delta_micro, account_id);
}

}  // namespace gantry::billing
