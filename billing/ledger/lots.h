// What a customer's balance is made of: credit bought and credit given, each with its own life.
//
// Lots are used in the order priority, expiry, promotional first, age. What is left of all lots of an account is its
// balance; when the balance is negative (a credit limit in use) nothing is left of any, and what comes in fills the
// debt first. Credit that expires unused is the seller's (`breakage`).
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "billing/ledger/ledger.h"
#include "billing/ledger/lot_use.h"
#include "billing/store/database.h"

namespace gantry::billing {

enum class LotKind { kPromotional = 1, kBought = 2 };
inline constexpr int64_t kNeverExpires = std::numeric_limits<int64_t>::max();

struct Credit {
  int64_t amount_micro = 0;  // > 0
  LotKind kind = LotKind::kBought;
  int64_t priority = 0;
  int64_t expires_us = kNeverExpires;
  std::string reference;
};
// Money of a party comes in, or is given by its seller: a transfer and a lot. OUT_OF_RANGE: the account cannot hold
// that much.
absl::Status PostCredit(Database& db, const PartyRow& party, const Credit& credit, int64_t now_us);

// A credit of `amount` to an account that had `balance_before_micro`, booked as `transfer_seq`.
void AddLot(Journal& journal, const Account& account, int64_t balance_before_micro, const Credit& credit,
            int64_t transfer_seq, int64_t now_us);

// Takes at most `micro` of the lots of one kind alone, in their order. What was taken. For no usage: what promotional
// lots give is the caller's to record.
std::vector<LotShare> UseLotsOfKind(Journal& journal, const Account& account, LotKind kind, int64_t micro);

// What of the lots of one kind that were granted before a time an account has used, and what expired of them. Reads the
// tables: no journal is open.
struct LotUse {
  int64_t used_micro = 0;
  int64_t expired_micro = 0;
};
LotUse LotUseOf(Database& db, int64_t account_no, LotKind kind, int64_t granted_before_us = kNeverExpires);

// Books what expired before now and is not held; the rest waits until it is used or freed. At most `limit` lots; how
// many were booked.
absl::StatusOr<int> ExpireLots(Database& db, int64_t now_us, int limit);

// Takes all that is left of a party's lots off its account: it is the seller's (breakage). How much.
int64_t ForfeitLots(Database& db, const PartyRow& party, int64_t now_us);

}  // namespace gantry::billing
