#include "billing/ledger/ledger.h"

#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "billing/ledger/lot_use.h"
#include "billing/ledger/lots.h"
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
    case TransferKind::kCommitment:
      return "commitment";
    case TransferKind::kRounding:
      return "rounding";
    case TransferKind::kTax:
      return "tax";
    case TransferKind::kCreditNote:
      return "credit_note";
    case TransferKind::kVoid:
      return "void";
    case TransferKind::kRefund:
      return "refund";
  }
  return "unknown";
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

namespace {

constexpr size_t kAccountsKept = 100'000;  // some 10 MB

}  // namespace

Journal::Journal(Database& db) : db_(db), memory_(db.Kept<JournalMemory>()) {
  if (memory_ == nullptr) memory_ = &own_;
  if (memory_->accounts.size() > kAccountsKept) *memory_ = {};
}

void Journal::Touch(Account& account) {
  if (!account.changed) changed_.push_back(account.account_no);
  account.changed = true;
}

Account& Journal::Open(int64_t party_no, const char* type, const std::string& currency) {
  auto [known, is_new] = memory_->numbers.try_emplace({party_no, type, currency}, 0);
  if (!is_new) return memory_->accounts[known->second];
  Account account;
  for (int attempt = 0; attempt < 2; ++attempt) {
    Rows rows = db_.Query(
        "SELECT account_no, debit_micro, credit_micro, held_micro, residue_pico FROM account "
        "WHERE party_no = ? AND type = ? AND currency = ?",
        party_no, type, currency);
    if (rows.Next()) {
      account = {rows.Int(0), rows.Int(1), rows.Int(2), rows.Int(3), rows.Int(4)};
      break;
    }
    if (attempt == 0) {
      db_.Execute("INSERT INTO account (party_no, type, currency) VALUES (?, ?, ?)", party_no, type, currency);
    }
  }
  known->second = account.account_no;
  return memory_->accounts[account.account_no] = account;
}

Account& Journal::At(int64_t account_no) {
  auto found = memory_->accounts.find(account_no);
  GANTRY_CHECK(found != memory_->accounts.end() || !db_.ok(), "an account is open before money moves");
  return found != memory_->accounts.end() ? found->second : memory_->accounts[account_no];
}

int64_t Journal::Post(const Transfer& t, int64_t released_micro) {
  GANTRY_CHECK(t.amount_micro > 0 && (t.debit_account != t.credit_account || !db_.ok()),
               "a transfer moves money between two accounts");
  if (!tail_known_) {
    const ChainTail tail = TailOf(db_.Query("SELECT seq, hash FROM transfer ORDER BY seq DESC LIMIT 1"));
    tail_seq_ = tail.next_seq - 1;
    tail_hash_ = tail.hash;
    tail_known_ = true;
  }
  const int64_t seq = ++tail_seq_;
  tail_hash_ = TransferHash(tail_hash_, seq, t);
  db_.Execute(
      "INSERT INTO transfer (seq, debit_account, credit_account, amount_micro, kind, source, reference, booked_us, "
      "hash) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
      seq, t.debit_account, t.credit_account, t.amount_micro, static_cast<int64_t>(t.kind), t.source, t.reference,
      t.booked_us, Blob{tail_hash_});
  Account& debit = At(t.debit_account);
  Account& credit = At(t.credit_account);
  if (__builtin_add_overflow(debit.debit_micro, t.amount_micro, &debit.debit_micro) ||
      __builtin_add_overflow(credit.credit_micro, t.amount_micro, &credit.credit_micro)) {
    db_.Fail(absl::OutOfRangeError("an account cannot hold that much"));
  }
  debit.held_micro -= released_micro;
  Touch(debit);
  Touch(credit);
  return seq;
}

void Journal::ChangeHeld(Account& account, int64_t delta_micro) {
  account.held_micro += delta_micro;
  Touch(account);
}

void Journal::SetResidue(Account& account, int64_t residue_pico) {
  account.residue_pico = residue_pico;
  Touch(account);
}

Journal::Lot* Journal::NextLot(int64_t account_no) {
  Lot& lot = memory_->lots[account_no];
  if (lot.left_micro > 0) return &lot;
  if (lot.taken_micro > 0) {
    db_.Execute("UPDATE credit_lot SET left_micro = left_micro - ? WHERE lot_no = ?", lot.taken_micro, lot.lot_no);
  }
  lot = {};
  Rows rows = db_.Query(
      "SELECT lot_no, left_micro, kind FROM credit_lot WHERE account_no = ? AND left_micro > 0 "
      "ORDER BY priority, expires_us, kind, lot_no LIMIT 1",
      account_no);
  if (!rows.Next()) return nullptr;
  lot = {rows.Int(0), rows.Int(1), 0, rows.Int(2) == static_cast<int64_t>(LotKind::kPromotional)};
  return &lot;
}

void Journal::UseLots(const Account& account, int64_t micro, int64_t for_what) {
  absl::InlinedVector<LotShare, 4> shares;
  bool promotional = false;
  while (micro > 0) {
    Lot* lot = NextLot(account.account_no);
    if (lot == nullptr) {
      shares.push_back({0, micro});
      break;
    }
    const int64_t taken = std::min(micro, lot->left_micro);
    if (lot->taken_micro == 0) used_.push_back(account.account_no);
    lot->left_micro -= taken;
    lot->taken_micro += taken;
    micro -= taken;
    promotional |= lot->promotional;
    if (for_what != kDebt) {
      shares.push_back({lot->lot_no, taken});
    } else if (lot->promotional) {
      RecordDebtPaid(db_, account.account_no, lot->lot_no, taken);
    }
  }
  if (!promotional || for_what <= 0) return;
  for (const LotShare& share : shares) RecordLotUse(db_, for_what, account.account_no, share);
}

void Journal::ForgetLot(const Account& account) {
  Flush();
  memory_->lots.erase(account.account_no);
}

void Journal::Flush() {
  for (const int64_t no : changed_) {
    Account& account = memory_->accounts[no];
    db_.Execute(
        "UPDATE account SET debit_micro = ?, credit_micro = ?, held_micro = ?, residue_pico = ? WHERE account_no = ?",
        account.debit_micro, account.credit_micro, account.held_micro, account.residue_pico, no);
    account.changed = false;
  }
  changed_.clear();
  for (const int64_t account_no : used_) {
    Lot& lot = memory_->lots[account_no];
    if (lot.taken_micro == 0) continue;
    db_.Execute("UPDATE credit_lot SET left_micro = left_micro - ? WHERE lot_no = ?", lot.taken_micro, lot.lot_no);
    lot.taken_micro = 0;
  }
  used_.clear();
}

Funds FundsOf(Journal& journal, const PartyRow& party) {
  const Account& account = journal.Open(party.party_no, "customer", party.currency);
  return {account.balance_micro(), account.held_micro,
          account.balance_micro() - account.held_micro + party.credit_limit_micro, account.account_no};
}

Funds ReadFunds(Database& db, const PartyRow& party) {
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

}  // namespace gantry::billing
