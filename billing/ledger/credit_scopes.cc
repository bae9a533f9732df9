#include "billing/ledger/credit_scopes.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "billing/ledger/credit_hops.h"
#include "billing/parties/parking.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

absl::StatusOr<CreditScopes> CreditScopes::Of(Journal& journal, const PartyRow& party, Budget budget) {
  if (party.status != v1::PARTY_STATUS_ACTIVE) {
    return absl::FailedPreconditionError(absl::StrCat("party ", party.name, " is not active"));
  }
  if (party.depth == 0) return absl::InvalidArgumentError("the house does not buy from itself");
  CreditScopes scopes(journal);
  GANTRY_ASSIGN_OR_RETURN(scopes.buyers_, BuyersAbove(journal.db(), party));
  GANTRY_RETURN_IF_ERROR(CheckNotParked(scopes.buyers_));
  scopes.budget_ = std::move(budget);
  for (const PartyRow& buyer : scopes.buyers_) {
    const bool tenant = buyer.party_no == party.party_no;
    const Funds funds = FundsOf(journal, buyer);
    if (tenant) scopes.funds_ = funds;
    // A reseller that may not spend has nothing for its tenants either.
    const bool active = buyer.status == v1::PARTY_STATUS_ACTIVE;
    scopes.scopes_.push_back({.kind = tenant ? CreditScope::kTenant : CreditScope::kReseller,
                              .no = buyer.party_no,
                              .available_micro = active ? funds.available_micro : 0,
                              .held_micro = active ? funds.held_micro : 0});
  }
  if (scopes.budget_.budget_no != 0) {
    scopes.scopes_.push_back({.kind = CreditScope::kBudget,
                              .no = scopes.budget_.budget_no,
                              .available_micro = scopes.budget_.available_micro(),
                              .held_micro = scopes.budget_.held_micro});
  }
  return scopes;
}

int64_t CreditScopes::available_micro() const {
  int64_t least = scopes_.front().available_micro;
  for (const CreditScope& scope : scopes_) least = std::min(least, scope.available_micro);
  return least;
}

const CreditScope* CreditScopes::ShortOf(int64_t micro) const {
  for (const CreditScope& scope : scopes_) {
    if (scope.available_micro < micro) return &scope;
  }
  return nullptr;
}

void CreditScopes::Hold(const Id16& credit_id, int64_t micro) {
  const PartyRow& party = buyers_.front();
  journal_->ChangeHeld(journal_->Open(party.party_no, "customer", party.currency), micro);
  HoldAbove(*journal_, buyers_, credit_id, micro);
  if (budget_.budget_no != 0) HoldOfBudget(journal_->db(), budget_, credit_id, micro);
}

absl::Status CreditScopes::Refuse(const CreditScope& scope, int64_t asked_micro) const {
  const PartyRow& party = buyers_.front();
  switch (scope.kind) {
    case CreditScope::kBudget:
      return BudgetSpent(budget_, party, asked_micro);
    case CreditScope::kReseller:
      return absl::FailedPreconditionError(absl::StrCat("insufficient funds of the reseller of ", party.name,
                                                        ": available ", scope.available_micro, ", asked ", asked_micro,
                                                        " (millionths of ", party.currency, ")"));
    case CreditScope::kTenant:
      break;
  }
  return absl::FailedPreconditionError(absl::StrCat("insufficient funds: balance ", funds_.posted_micro, ", held ",
                                                    funds_.held_micro, ", available ", funds_.available_micro,
                                                    ", asked ", asked_micro, " (millionths of ", party.currency, ")"));
}

std::vector<Lender> LendersOf(Database& db, const CreditScope& scope) {
  Rows rows = [&] {
    switch (scope.kind) {
      case CreditScope::kReseller:
        return db.Query(
            "SELECT DISTINCT g.gateway_id, p.party_id, NULL FROM credit_hop c JOIN ("
            "SELECT slice_id AS id, gateway_no, gateway_epoch, party_no FROM slice WHERE open = 1 UNION ALL "
            "SELECT hold_id, gateway_no, gateway_epoch, party_no FROM hold WHERE state = 1) s ON s.id = c.credit_id "
            "JOIN gateway g USING (gateway_no) JOIN party p ON p.party_no = s.party_no "
            "WHERE c.party_no = ? AND c.open = 1 AND s.gateway_epoch = g.epoch",
            scope.no);
      case CreditScope::kBudget:
        return db.Query(
            "SELECT DISTINCT g.gateway_id, p.party_id, k.key_id FROM credit_budget c JOIN ("
            "SELECT slice_id AS id, gateway_no, gateway_epoch, party_no FROM slice WHERE open = 1 UNION ALL "
            "SELECT hold_id, gateway_no, gateway_epoch, party_no FROM hold WHERE state = 1) s ON s.id = c.credit_id "
            "JOIN gateway g USING (gateway_no) JOIN party p ON p.party_no = s.party_no "
            "JOIN key_budget b USING (budget_no) JOIN api_key k USING (key_no) "
            "WHERE c.budget_no = ? AND c.open = 1 AND s.gateway_epoch = g.epoch",
            scope.no);
      case CreditScope::kTenant:
        break;
    }
    return db.Query(
        "SELECT DISTINCT g.gateway_id, p.party_id, NULL FROM ("
        "SELECT gateway_no, gateway_epoch, party_no FROM slice WHERE open = 1 AND party_no = ?1 UNION ALL "
        "SELECT gateway_no, gateway_epoch, party_no FROM hold WHERE state = 1 AND party_no = ?1) s "
        "JOIN gateway g USING (gateway_no) JOIN party p ON p.party_no = s.party_no WHERE s.gateway_epoch = g.epoch",
        scope.no);
  }();
  std::vector<Lender> lenders;
  while (rows.Next()) lenders.push_back({rows.Id(0), rows.Id(1), rows.Id(2)});
  return lenders;
}

}  // namespace gantry::billing
