#include "billing/invoice/postings.h"

#include <algorithm>

#include "billing/ledger/ledger.h"
#include "billing/ledger/lots.h"

namespace gantry::billing {
namespace {

// A document's postings on the account of one customer.
class Poster {
 public:
  Poster(Database& db, const PartyRow& buyer, const PostingRef& ref)
      : journal_(db), buyer_(buyer), ref_(ref), customer_(journal_.Open(buyer.party_no, "customer", buyer.currency)) {}

  // Above 0 from the customer to the seller's account `type`, below 0 back.
  void Move(const char* type, int64_t micro, TransferKind kind, int64_t from_promotion_micro = 0) {
    if (micro == 0) return;
    const Account& other = journal_.Open(buyer_.parent_no, type, buyer_.currency);
    const int64_t balance_before = customer_.balance_micro();
    const int64_t amount = micro < 0 ? -micro : micro;
    const int64_t seq = journal_.Post({.debit_account = micro > 0 ? customer_.account_no : other.account_no,
                                       .credit_account = micro > 0 ? other.account_no : customer_.account_no,
                                       .amount_micro = amount,
                                       .kind = kind,
                                       .source = ref_.source,
                                       .reference = ref_.reference,
                                       .booked_us = ref_.now_us});
    if (micro < 0) {
      AddLot(journal_, customer_, balance_before, {.amount_micro = amount}, seq, ref_.now_us);
      return;
    }
    int64_t left = amount;
    left -= UseLotsOfKind(journal_, customer_, LotKind::kPromotional, from_promotion_micro);
    left -= UseLotsOfKind(journal_, customer_, LotKind::kBought, left);
    journal_.UseLots(customer_, left);
  }

 private:
  Journal journal_;
  const PartyRow& buyer_;
  const PostingRef& ref_;
  Account& customer_;
};

}  // namespace

void PostInvoice(Database& db, const PartyRow& buyer, const InvoiceAmounts& amounts, const PostingRef& ref) {
  Poster poster(db, buyer, ref);
  poster.Move("revenue", amounts.commitment_micro, TransferKind::kCommitment, amounts.commitment_from_promotion_micro);
  poster.Move("rounding", amounts.rounding_micro, TransferKind::kRounding);
  poster.Move("tax", amounts.tax_micro, TransferKind::kTax);
}

void PostVoid(Database& db, const PartyRow& buyer, const InvoiceAmounts& amounts, const PostingRef& ref) {
  Poster poster(db, buyer, ref);
  poster.Move("revenue", -amounts.commitment_micro, TransferKind::kVoid);
  poster.Move("rounding", -amounts.rounding_micro, TransferKind::kVoid);
  poster.Move("tax", -amounts.tax_micro, TransferKind::kVoid);
}

void PostCreditNote(Database& db, const PartyRow& buyer, int64_t net_micro, int64_t tax_micro, const PostingRef& ref) {
  Poster poster(db, buyer, ref);
  poster.Move("revenue", -net_micro, TransferKind::kCreditNote);
  poster.Move("tax", -tax_micro, TransferKind::kCreditNote);
}

}  // namespace gantry::billing
