// What a slice or a hold of a tenant has set aside of each reseller above it (R6): as much as of the tenant, since what
// a reseller sells is not cheaper than what it buys. Where it is, usage takes the rest of the reseller's own free
// money.
#pragma once

#include <cstdint>
#include <vector>

#include "billing/ledger/ledger.h"
#include "billing/store/database.h"

namespace gantry::billing {

// Sets `micro` aside of each of buyers[1..] under `credit_id`, or adds it. REQUIRES: each has it available.
void HoldAbove(Journal& journal, const std::vector<PartyRow>& buyers, const Id16& credit_id, int64_t micro);

// Gives `micro` of each back, as far as it is there; with `close` all that is left.
void ReturnAbove(Journal& journal, const Id16& credit_id, int64_t micro, bool close);

// Takes up to `micro` of what is set aside of `buyer`, then of its free money; what it returns of `held_micro` was held
// and must be released by the posting. With `close` what is left is given back.
struct Taken {
  int64_t covered_micro = 0;
  int64_t held_micro = 0;  // <= covered
};
Taken TakeAbove(Journal& journal, const PartyRow& buyer, const Id16& credit_id, int64_t micro, bool close);

}  // namespace gantry::billing
