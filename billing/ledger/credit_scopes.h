// Everything that a slice or a hold takes from at once (R6): the tenant's balance, the balance of each reseller above
// it, and the budget of a key. All functions run inside a command.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/ledger/key_budget.h"
#include "billing/ledger/ledger.h"
#include "billing/store/database.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct CreditScope {
  enum Kind { kTenant, kReseller, kBudget } kind = kTenant;
  int64_t no = 0;  // party_no, or budget_no
  int64_t available_micro = 0;
  int64_t held_micro = 0;  // slices and holds: not settled yet
  int64_t left_micro() const { return available_micro + held_micro; }
};

class CreditScopes {
 public:
  // `budget` with budget_no 0: none. FAILED_PRECONDITION: the party may not spend.
  static absl::StatusOr<CreditScopes> Of(Journal& journal, const PartyRow& party, Budget budget);

  int64_t available_micro() const;
  // The first scope with less than this available; null: none.
  const CreditScope* ShortOf(int64_t micro) const;
  const std::vector<CreditScope>& all() const { return scopes_; }

  // Sets `micro` aside in each, or adds it. REQUIRES: micro <= available_micro().
  void Hold(const Id16& credit_id, int64_t micro);
  // FAILED_PRECONDITION or OUT_OF_RANGE, as the contract of GrantSlice says.
  absl::Status Refuse(const CreditScope& scope, int64_t asked_micro) const;

 private:
  explicit CreditScopes(Journal& journal) : journal_(&journal) {}
  Journal* journal_;
  std::vector<PartyRow> buyers_;
  Budget budget_;
  Funds funds_;
  std::vector<CreditScope> scopes_;  // tenant, resellers, budget
};

// Who may have money of a scope that is not spent: gateways with open slices or pending holds that take from it, those
// of fenced epochs left out, and whose slices and holds these are.
struct Lender {
  Id16 gateway_id;
  Id16 party_id;
  Id16 key_id;  // of the key that the scope is the budget of; else zero
};
std::vector<Lender> LendersOf(Database& db, const CreditScope& scope);

}  // namespace gantry::billing
