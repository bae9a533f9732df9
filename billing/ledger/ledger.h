// Double entry. One row of `transfer` is one debit and one credit of the same amount, so the books balance by
// construction; rows are chained by hash and never change. Accounts carry the sums, and audits recompute them.
//
//   prepaid      of a tenant: what it has paid and not used (credit-normal)
//   cash         of the house: what came in (debit-normal)
//   revenue      of the house: what was used (credit-normal)
//   late_unheld  of the house: usage that came after its money had been given back (R9); a cost, never an overdraft
//
// `held` of a prepaid account is set aside for slices and holds; available = credit - debit - held + credit limit >= 0.
// All functions run inside a command of the store. Times are billing's clock.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "services/common/ids.h"

namespace gantry::billing {

// The party of kind house. FAILED_PRECONDITION: there is none yet.
struct House {
  Id16 party_id;
  std::string currency;
};
absl::StatusOr<House> HouseOf(Database& db);

struct Account {
  int64_t account_id = 0;
  int64_t debit_micro = 0;
  int64_t credit_micro = 0;
  int64_t held_micro = 0;
  int64_t residue_pico = 0;
};
// Opened when it does not exist. `type`: a name of the list above.
Account AccountOf(Database& db, const Id16& party_id, const char* type, const std::string& currency);

struct Funds {
  std::string currency;
  int64_t posted_micro = 0;
  int64_t held_micro = 0;
  int64_t available_micro = 0;
  int64_t account_id = 0;  // prepaid
};
// NOT_FOUND: no such party.
absl::StatusOr<Funds> FundsOf(Database& db, const Id16& party_id);

struct Transfer {
  Id16 transfer_id;
  int64_t debit_account = 0;
  int64_t credit_account = 0;
  int64_t amount_micro = 0;  // > 0
  std::string currency;
  const char* kind = "";  // "top_up", "usage"
  Id16 source_id;
  std::string reference;
  int64_t booked_us = 0;
};
// Books it and updates both accounts. OUT_OF_RANGE when a sum would not fit.
absl::Status Post(Database& db, const Transfer& transfer);

// Money of a tenant comes in: house cash -> prepaid.
absl::Status PostTopUp(Database& db, const Id16& transfer_id, const Id16& party_id, int64_t amount_micro,
                       const std::string& reference, int64_t now_us);

// Sets aside or frees (negative) money of a prepaid account. REQUIRES: the caller has checked what is available.
void ChangeHeld(Database& db, int64_t account_id, int64_t delta_micro);

// The hash that a transfer's row must have after a row with hash `previous`.
std::string TransferHash(const std::string& previous, int64_t seq, const Transfer& transfer);

}  // namespace gantry::billing
