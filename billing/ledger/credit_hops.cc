#include "billing/ledger/credit_hops.h"

#include <algorithm>
#include <string>

namespace gantry::billing {

void HoldAbove(Journal& journal, const std::vector<PartyRow>& buyers, const Id16& credit_id, int64_t micro) {
  for (size_t i = 1; i < buyers.size(); ++i) {
    journal.db().Execute(
        "INSERT INTO credit_hop (credit_id, party_no, granted_micro, open) VALUES (?, ?, ?, 1) "
        "ON CONFLICT (credit_id, party_no) DO UPDATE SET granted_micro = granted_micro + excluded.granted_micro",
        credit_id, buyers[i].party_no, micro);
    journal.ChangeHeld(journal.Open(buyers[i].party_no, "customer", buyers[i].currency), micro);
  }
}

void ReturnAbove(Journal& journal, const Id16& credit_id, int64_t micro, bool close) {
  struct Left {
    int64_t party_no;
    std::string currency;
    int64_t micro;
  };
  std::vector<Left> hops;
  {
    Rows rows = journal.db().Query(
        "SELECT h.party_no, p.currency, h.granted_micro - h.spent_micro - h.returned_micro FROM credit_hop h "
        "JOIN party p USING (party_no) WHERE h.credit_id = ? AND h.open = 1",
        credit_id);
    while (rows.Next()) hops.push_back({rows.Int(0), rows.Text(1), rows.Int(2)});
  }
  for (const Left& hop : hops) {
    const int64_t back = close ? hop.micro : std::min(hop.micro, micro);
    journal.db().Execute(
        "UPDATE credit_hop SET returned_micro = returned_micro + ?1, open = ?2, seal = iif(?2 = 1, NULL, "
        "gantry_row_hash(credit_id, party_no, granted_micro, spent_micro, returned_micro + ?1, ?2)) "
        "WHERE credit_id = ?3 AND party_no = ?4",
        back, close ? 0 : 1, credit_id, hop.party_no);
    journal.ChangeHeld(journal.Open(hop.party_no, "customer", hop.currency), -back);
  }
}

Taken TakeAbove(Journal& journal, const PartyRow& buyer, const Id16& credit_id, int64_t micro, bool close) {
  Taken taken;
  int64_t left = 0;
  {
    Rows rows = journal.db().Query(
        "SELECT granted_micro - spent_micro - returned_micro FROM credit_hop "
        "WHERE credit_id = ? AND party_no = ? AND open = 1",
        credit_id, buyer.party_no);
    if (rows.Next()) left = rows.Int(0);
  }
  taken.covered_micro = taken.held_micro = std::min(micro, left);
  const int64_t back = close ? left - taken.held_micro : 0;
  if (taken.held_micro > 0 || back > 0) {
    journal.db().Execute(
        "UPDATE credit_hop SET spent_micro = spent_micro + ?1, returned_micro = returned_micro + ?2, open = ?3, "
        "seal = iif(?3 = 1, NULL, gantry_row_hash(credit_id, party_no, granted_micro, spent_micro + ?1, "
        "returned_micro + ?2, ?3)) WHERE credit_id = ?4 AND party_no = ?5",
        taken.held_micro, back, close ? 0 : 1, credit_id, buyer.party_no);
    journal.ChangeHeld(journal.Open(buyer.party_no, "customer", buyer.currency), -back);
  }
  if (micro > taken.covered_micro) {
    // What is held for this posting is still counted as held.
    const int64_t free = std::max<int64_t>(0, FundsOf(journal, buyer).available_micro);
    taken.covered_micro += std::min(free, micro - taken.covered_micro);
  }
  return taken;
}

}  // namespace gantry::billing
