// Double entry. One row of `transfer` is one debit and one credit of the same amount, so the books balance by
// construction; rows are chained by hash and never change. Accounts carry the sums, and audits recompute them.
//
//   customer       of every party but the house: what it has paid its seller and not used (credit-normal)
//   cash           of a seller: what came in (debit-normal)
//   revenue        of a seller: what was used (credit-normal)
//   promotion      of a seller: credit it gave away (debit-normal)
//   breakage       of a seller: credit that expired unused (credit-normal)
//   late_unheld    of the house: usage that came after its money had been given back (R9); a cost, never an overdraft
//   unbilled_loss  of the house: what a worker generated and no gateway reported in time (R10)
//
// `held` of a customer account is set aside for slices and holds; available = credit - debit - held + credit limit >=
// 0. All functions run inside a command of the store. Times are billing's clock.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
};
const char* TransferKindName(TransferKind kind);  // "top_up", …

struct Account {
  int64_t account_no = 0;
  int64_t debit_micro = 0;
  int64_t credit_micro = 0;
  int64_t held_micro = 0;
  int64_t residue_pico = 0;
  int64_t balance_micro() const { return credit_micro - debit_micro; }
};
// Opened when it does not exist. `type`: a name of the list above.
Account AccountOf(Database& db, int64_t party_no, const char* type, const std::string& currency);

struct Funds {
  int64_t posted_micro = 0;
  int64_t held_micro = 0;
  int64_t available_micro = 0;
  int64_t account_no = 0;  // customer; 0: not opened yet
};
Funds FundsOf(Database& db, const PartyRow& party);

struct Transfer {
  int64_t debit_account = 0;
  int64_t credit_account = 0;
  int64_t amount_micro = 0;  // > 0
  TransferKind kind = TransferKind::kTopUp;
  int64_t source = 0;  // usage: seq of its event; expiry: its lot
  std::string reference;
  int64_t booked_us = 0;
};
// Books it, with what of the debit account's `held` it frees. Returns its seq. Knows nothing of lots
// (billing/ledger/lots.h).
int64_t Post(Database& db, const Transfer& transfer, int64_t released_micro = 0);

// Sets aside or frees (negative) money of a customer account. REQUIRES: the caller has checked what is available.
void ChangeHeld(Database& db, int64_t account_no, int64_t delta_micro);

// The hash that a transfer's row must have after a row with hash `previous`.
std::string TransferHash(const std::string& previous, int64_t seq, const Transfer& transfer);

}  // namespace gantry::billing
