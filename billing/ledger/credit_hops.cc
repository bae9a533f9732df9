#include "billing/ledger/credit_hops.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace gantry::billing {

int64_t AvailableAbove(Database& db, const std::vector<PartyRow>& buyers) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (size_t i = 1; i < buyers.size(); ++i) {
    // A reseller that may not spend has nothing for its tenants either.
    const bool active = buyers[i].status == v1::PARTY_STATUS_ACTIVE;
    least = std::min(least, active ? FundsOf(db, buyers[i]).available_micro : 0);
  }
  return least;
}

void HoldAbove(Database& db, const std::vector<PartyRow>& buyers, const Id16& credit_id, int64_t micro) {
  for (size_t i = 1; i < buyers.size(); ++i) {
    db.Execute(
        "INSERT INTO credit_hop (credit_id, party_no, granted_micro, open) VALUES (?, ?, ?, 1) "
        "ON CONFLICT (credit_id, party_no) DO UPDATE SET granted_micro = granted_micro + excluded.granted_micro",
        credit_id, buyers[i].party_no, micro);
    ChangeHeld(db, AccountOf(db, buyers[i].party_no, "customer", buyers[i].currency).account_no, micro);
  }
}

void ReturnAbove(Database& db, const Id16& credit_id, int64_t micro, bool close) {
  std::vector<std::pair<int64_t, int64_t>> hops;  // party, left
  {
    Rows rows = db.Query(
        "SELECT party_no, granted_micro - spent_micro - returned_micro FROM credit_hop WHERE credit_id = ? AND open = "
        "1",
        credit_id);
    while (rows.Next()) hops.push_back({rows.Int(0), rows.Int(1)});
  }
  for (const auto& [party_no, left] : hops) {
    const int64_t back = close ? left : std::min(left, micro);
    db.Execute(
        "UPDATE credit_hop SET returned_micro = returned_micro + ?, open = ? WHERE credit_id = ? AND party_no = ?",
        back, close ? 0 : 1, credit_id, party_no);
    db.Execute("UPDATE account SET held_micro = held_micro - ? WHERE party_no = ? AND type = 'customer'", back,
               party_no);
  }
}

Taken TakeAbove(Database& db, const PartyRow& buyer, const Id16& credit_id, int64_t micro) {
  Taken taken;
  {
    Rows rows = db.Query(
        "SELECT granted_micro - spent_micro - returned_micro FROM credit_hop "
        "WHERE credit_id = ? AND party_no = ? AND open = 1",
        credit_id, buyer.party_no);
    if (rows.Next()) taken.held_micro = std::min(micro, rows.Int(0));
  }
  if (taken.held_micro > 0) {
    db.Execute("UPDATE credit_hop SET spent_micro = spent_micro + ? WHERE credit_id = ? AND party_no = ?",
               taken.held_micro, credit_id, buyer.party_no);
  }
  taken.covered_micro = taken.held_micro;
  if (micro > taken.covered_micro) {
    const int64_t free = std::max<int64_t>(0, FundsOf(db, buyer).available_micro);
    taken.covered_micro += std::min(free, micro - taken.covered_micro);
  }
  return taken;
}

}  // namespace gantry::billing
