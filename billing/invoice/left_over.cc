#include "billing/invoice/left_over.h"

#include "billing/ledger/ledger.h"
#include "billing/ledger/lots.h"

namespace gantry::billing {

LeftOver LeftOverOf(Database& db, const PartyRow& party) {
  LeftOver left;
  {
    Rows rows = db.Query(
        "WITH i AS (SELECT invoice_no, usage_residue_pico, carried_micro, promotion_micro FROM invoice i WHERE "
        "party_no = ? AND NOT EXISTS (SELECT 1 FROM invoice_void v WHERE v.invoice_no = i.invoice_no)), "
        "n AS (SELECT coalesce(sum(carried_micro), 0) AS carried, coalesce(sum(promotion_micro), 0) AS promotion FROM "
        "credit_note WHERE invoice_no IN (SELECT invoice_no FROM i)) "
        "SELECT coalesce(sum(i.usage_residue_pico), 0), coalesce(-sum(i.carried_micro), 0) - n.carried, "
        "coalesce(sum(i.promotion_micro), 0) + n.promotion FROM n LEFT JOIN i",
        party.party_no);
    if (rows.Next()) {
      left.usage_residue_pico = rows.Int(0);
      left.carried_micro = rows.Int(1);
      left.promoted_micro = rows.Int(2);
    }
  }
  const int64_t account_no = ReadFunds(db, party).account_no;
  const int64_t used = account_no == 0 ? 0 : LotUseOf(db, account_no, LotKind::kPromotional).used_micro;
  left.not_deducted_micro = used - left.promoted_micro;
  return left;
}

}  // namespace gantry::billing
