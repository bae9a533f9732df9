// Double entry. One row of `transfer` is one debit and one credit of the same amount, so the books balance by
// construction; rows are chained by hash and never change. Accounts carry the sums, and audits recompute them.
//
//   customer       of every party but the house: what it has paid its seller and not used (credit-normal)
//   cash           of a seller: what came in (debit-normal)
//   revenue        of a seller: what was used (credit-normal)
//   promotion      of a seller: credit it gave away (debit-normal)
//   breakage       of a seller: credit that expired unused (credit-normal)
//   tax            of a seller: what it owes the tax office of final invoices (credit-normal)
//   rounding       of a seller: what invoices came to beyond exact usage when their lines were rounded (either way)
//   late_unheld    of the house: usage that came after its money had been given back (R9); a cost, never an overdraft
//   unbilled_loss  of the house: what a worker generated and no gateway reported in time (R10)
//
// `held` of a customer account is set aside for slices and holds; available = credit - debit - held + credit limit >=
// 0. All functions run inside a command of the store. Times are billing's clock.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/node_hash_map.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"

namespace gantry::billing {

enum class TransferKind {
  kTopUp = 1,          // cash -> customer
  kPromotion = 2,      // promotion -> customer
  kUsage = 3,          // customer -> revenue
  kUsageUnheld = 4,    // late_unheld -> revenue
  kUnbilled = 5,       // unbilled_loss -> revenue
  kUsageReturned = 6,  // revenue -> customer, or -> late_unheld, unbilled_loss: what was booked there is taken back
  kExpiry = 7,         // customer -> breakage
  kCommitment = 8,     // customer -> revenue: what usage lacked of the minimum
  kRounding = 9,       // customer -> rounding, or back
  kTax = 10,           // customer -> tax
  kCreditNote = 11,    // revenue, tax -> customer
  kVoid = 12,          // the postings of an invoice (8, 9, 10) the other way
  kRefund = 13,        // customer -> cash: what was paid and not used goes back
};
const char* TransferKindName(TransferKind kind);  // "top_up", …

// An account as a Journal holds it.
struct Account {
  int64_t account_no = 0;
  int64_t debit_micro = 0;
  int64_t credit_micro = 0;
  int64_t held_micro = 0;
  int64_t residue_pico = 0;
  bool changed = false;
  int64_t balance_micro() const { return credit_micro - debit_micro; }
};

struct Transfer {
  int64_t debit_account = 0;
  int64_t credit_account = 0;
  int64_t amount_micro = 0;  // > 0
  TransferKind kind = TransferKind::kTopUp;
  int64_t source = 0;  // usage: seq of its event; expiry: its lot; invoices and credit notes: their row
  std::string reference;
  int64_t booked_us = 0;
};

// Accounts and lots as a Journal has read them. Commands that keep things (Store::WriteKeeping) find them again.
struct JournalMemory {
  struct Lot {
    int64_t lot_no = 0;
    int64_t left_micro = 0;
    int64_t taken_micro = 0;  // not written yet
    bool promotional = false;
  };
  absl::node_hash_map<int64_t, Account> accounts;
  absl::flat_hash_map<std::tuple<int64_t, std::string, std::string>, int64_t> numbers;
  absl::flat_hash_map<int64_t, Lot> lots;  // the one in use of each account
};

// Books of one command. Accounts and the use of lots are read once, changed in memory and written when it ends: a batch
// of requests writes an account that all of them pay into once. Whoever reads these tables by SQL does so before it
// begins or after it has ended. Errors stick to the database, as everywhere.
class Journal {
 public:
  explicit Journal(Database& db);
  ~Journal() { Flush(); }
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  Database& db() { return db_; }
  // Opened when it does not exist. `type`: a name of the list above. Valid while the journal lives.
  Account& Open(int64_t party_no, const char* type, const std::string& currency);

  // Books it, with what of the debit account's `held` it frees. Returns its seq. Knows nothing of lots. REQUIRES: both
  // accounts are open here.
  int64_t Post(const Transfer& transfer, int64_t released_micro = 0);
  // Sets aside or frees (negative) money of a customer account. REQUIRES: the caller has checked what is available.
  void ChangeHeld(Account& account, int64_t delta_micro);
  void SetResidue(Account& account, int64_t residue_pico);

  // Takes `micro` of the lots of an account whose balance falls by as much (billing/ledger/lots.h). OUT of lots: the
  // rest is on the credit limit. `for_what`: a usage event, or kDebt; what promotional lots gave is recorded
  // (billing/ledger/lot_use.h).
  static constexpr int64_t kDebt = -1;
  void UseLots(const Account& account, int64_t micro, int64_t for_what);

  // Of an account that gets another lot, which may come before the one in use.
  void ForgetLot(const Account& account);

  void Flush();

 private:
  using Lot = JournalMemory::Lot;
  void Touch(Account& account);
  Account& At(int64_t account_no);
  Lot* NextLot(int64_t account_no);

  Database& db_;
  JournalMemory own_;
  JournalMemory* memory_;         // kept, or our own
  std::vector<int64_t> changed_;  // accounts that are not written yet
  std::vector<int64_t> used_;     // accounts whose lots are not
  bool tail_known_ = false;
  int64_t tail_seq_ = 0;  // of the last transfer
  std::string tail_hash_;
};

struct Funds {
  int64_t posted_micro = 0;
  int64_t held_micro = 0;
  int64_t available_micro = 0;
  int64_t account_no = 0;  // customer; 0: not opened yet
};
Funds FundsOf(Journal& journal, const PartyRow& party);
// For queries; opens nothing.
Funds ReadFunds(Database& db, const PartyRow& party);

// The hash that a transfer's row must have after a row with hash `previous`.
std::string TransferHash(const std::string& previous, int64_t seq, const Transfer& transfer);

}  // namespace gantry::billing
