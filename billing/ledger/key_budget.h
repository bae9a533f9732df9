// What a key may spend in a day, a month or its life: a further scope of credit (R6). Keys that were rotated into each
// other share one budget.
//
// A slice or a hold counts in the period in which it was granted, with all that is spent from it: what a period shows
// as used never passes its budget. It pays for requests of the budget's keys alone. What comes when it is closed
// already is the house's cost and no use of the budget. All functions run inside a command.
//
//   used = what slices and holds of the period have spent - what corrections gave back in it
//
// A correction gives back in the period in which its request ended, and no more than is used there at that moment. For
// a request that outlived its period that is a later one, and what it comes to depends on what was used there by then,
// which books do not tell afterwards. So it is recorded (budget_return): audits add up what was recorded and hold each
// against what its correction gave back to the tenant, which it never exceeds.
#pragma once

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct Budget {
  int64_t budget_no = 0;  // 0: the key has none
  v1::BudgetPeriod period = v1::BUDGET_PERIOD_UNSPECIFIED;
  int64_t amount_micro = 0;
  // The period that runs.
  int64_t from_us = 0;
  int64_t to_us = std::numeric_limits<int64_t>::max();
  int64_t used_micro = 0;
  int64_t held_micro = 0;
  int64_t available_micro() const { return amount_micro - used_micro - held_micro; }
};

// Gives a key a budget of its own, or a share in that of another key. REQUIRES: the key has none.
void AddBudget(Database& db, int64_t key_no, v1::BudgetPeriod period, int64_t amount_micro);
void ShareBudget(Database& db, int64_t key_no, int64_t other_key_no);

// The budget of a key of `party` as it stands at `now_us`. A key that is unknown, or somebody else's, has none.
absl::StatusOr<Budget> BudgetOf(Database& db, const PartyRow& party, const Id16& key_id, int64_t now_us);

// Whether the key is one of those that share the budget.
bool Shares(Database& db, int64_t key_no, int64_t budget_no);

// The budget that open credit counts in, in the period in which it was granted.
Budget BudgetOfCredit(Database& db, const Id16& credit_id);

// OUT_OF_RANGE: budget, used, held, asked, reset.
absl::Status BudgetSpent(const Budget& budget, const PartyRow& party, int64_t asked_micro);

// Sets `micro` aside under `credit_id`, or adds it. REQUIRES: micro <= what is available; budget_no > 0.
void HoldOfBudget(Database& db, const Budget& budget, const Id16& credit_id, int64_t micro);
// Gives `micro` back, as far as it is there; with `close` all that is left. Nothing for credit without a budget.
void ReturnToBudget(Database& db, const Id16& credit_id, int64_t micro, bool close);
// Counts `micro` of what is set aside as used. With `close` what is left is given back.
void UseBudget(Database& db, const Id16& credit_id, int64_t micro, bool close);
// The correction `event_seq` gave `micro` back to the tenant for a request of the key that ended at `at_us`.
void GiveBackToBudget(Database& db, int64_t event_seq, int64_t key_no, int64_t at_us, int64_t micro);

}  // namespace gantry::billing
