#include "billing/invoice/postings.h"

#include <map>

#include "billing/invoice/left_over.h"
#include "billing/ledger/ledger.h"
#include "billing/ledger/lot_use.h"
#include "billing/ledger/lots.h"

namespace gantry::billing {
namespace {

// A document's postings on the account of one customer.
class Poster {
 public:
  Poster(Database& db, const PartyRow& buyer, const PostingRef& ref)
      : journal_(db), buyer_(buyer), ref_(ref), customer_(journal_.Open(buyer.party_no, "customer", buyer.currency)) {}

  // From the customer to the seller's account `type`: promotional credit pays as far as it is asked to, then what was
  // bought, then what else there is, then the credit limit.
  void Charge(const char* type, int64_t micro, TransferKind kind, int64_t from_promotion_micro = 0) {
    const int64_t seq = Post(type, micro, kind);
    int64_t left = micro;
    const auto take = [&](LotKind lots, int64_t most) {
      for (const LotShare& share : UseLotsOfKind(journal_, customer_, lots, most)) {
        shares_[share.lot_no] += share.micro;
        left -= share.micro;
      }
    };
    take(LotKind::kPromotional, from_promotion_micro);
    take(LotKind::kBought, left);
    take(LotKind::kPromotional, left);
    if (left > 0) shares_[0] += left;
    for (const auto& [lot_no, paid] : shares_) RecordPostingUse(journal_.db(), seq, {lot_no, paid});
    shares_.clear();
  }
  // Back to the customer: what nobody had paid before.
  void Give(const char* type, int64_t micro, TransferKind kind) {
    const int64_t before = customer_.balance_micro();
    const int64_t seq = Post(type, -micro, kind);
    AddLot(journal_, customer_, before, {.amount_micro = micro}, seq, ref_.now_us);
  }
  // Back to the customer what the invoice's posting of one kind had taken, or a part of it.
  void Return(const char* type, int64_t micro, TransferKind kind, int64_t invoice_no, TransferKind posted_as) {
    const int64_t before = customer_.balance_micro(), not_deducted = NotDeducted();
    const int64_t seq = Post(type, -micro, kind);
    ReturnToLots(journal_, customer_,
                 ReturnedPosting{.posting_seq = PostingOf(invoice_no, posted_as),
                                 .micro = micro,
                                 .not_deducted_micro = not_deducted,
                                 .transfer_seq = seq,
                                 .balance_before_micro = before,
                                 .now_us = ref_.now_us});
  }
  // Back to the customer a part of an invoice's net.
  void ReturnNet(int64_t micro, int64_t month_end_us) {
    const int64_t before = customer_.balance_micro(), not_deducted = NotDeducted();
    const int64_t seq = Post("revenue", -micro, TransferKind::kCreditNote);
    ReturnToLots(journal_, customer_,
                 ReturnedNet{.micro = micro,
                             .given_from_us = month_end_us,
                             .not_deducted_micro = not_deducted,
                             .transfer_seq = seq,
                             .balance_before_micro = before,
                             .now_us = ref_.now_us});
  }

 private:
  // Above 0 from the customer, below 0 to it.
  int64_t Post(const char* type, int64_t micro, TransferKind kind) {
    const Account& other = journal_.Open(buyer_.parent_no, type, buyer_.currency);
    return journal_.Post({.debit_account = micro > 0 ? customer_.account_no : other.account_no,
                          .credit_account = micro > 0 ? other.account_no : customer_.account_no,
                          .amount_micro = micro > 0 ? micro : -micro,
                          .kind = kind,
                          .source = ref_.source,
                          .reference = ref_.reference,
                          .booked_us = ref_.now_us});
  }
  int64_t PostingOf(int64_t invoice_no, TransferKind kind) {
    Rows rows = journal_.db().Query("SELECT seq FROM transfer WHERE source = ? AND kind > 3 AND kind = ?", invoice_no,
                                    static_cast<int64_t>(kind));
    return rows.Next() ? rows.Int(0) : 0;
  }

  int64_t NotDeducted() {
    journal_.ForgetLot(customer_);  // the tables are read
    return LeftOverOf(journal_.db(), buyer_).not_deducted_micro;
  }

  Journal journal_;
  const PartyRow& buyer_;
  const PostingRef& ref_;
  Account& customer_;
  std::map<int64_t, int64_t> shares_;  // of the posting that is made, by lot
};

}  // namespace

void PostInvoice(Database& db, const PartyRow& buyer, const InvoiceAmounts& amounts, const PostingRef& ref) {
  Poster poster(db, buyer, ref);
  if (amounts.commitment_micro > 0) {
    poster.Charge("revenue", amounts.commitment_micro, TransferKind::kCommitment,
                  amounts.commitment_from_promotion_micro);
  }
  if (amounts.rounding_micro > 0) poster.Charge("rounding", amounts.rounding_micro, TransferKind::kRounding);
  // The lines of what promotional credit paid are rounded too: what is rounded down is of the rest, which was bought.
  if (amounts.rounding_micro < 0) poster.Give("rounding", -amounts.rounding_micro, TransferKind::kRounding);
  if (amounts.tax_micro > 0) poster.Charge("tax", amounts.tax_micro, TransferKind::kTax);
}

void PostVoid(Database& db, const PartyRow& buyer, const InvoiceAmounts& amounts, const PostingRef& ref) {
  Poster poster(db, buyer, ref);
  const auto back = [&](const char* type, int64_t micro, TransferKind posted_as) {
    if (micro > 0) poster.Return(type, micro, TransferKind::kVoid, ref.source, posted_as);
    if (micro < 0) poster.Charge(type, -micro, TransferKind::kVoid);
  };
  // The last first: what of it is owed still goes against the debt before any credit does.
  back("tax", amounts.tax_micro, TransferKind::kTax);
  back("rounding", amounts.rounding_micro, TransferKind::kRounding);
  back("revenue", amounts.commitment_micro, TransferKind::kCommitment);
}

void PostCreditNote(Database& db, const PartyRow& buyer, const NoteAmounts& amounts, const PostingRef& ref) {
  Poster poster(db, buyer, ref);
  if (const int64_t there = amounts.carried_micro + amounts.promotion_micro; there > 0) {
    if (amounts.net_micro > there) poster.Give("revenue", amounts.net_micro - there, TransferKind::kCreditNote);
    if (amounts.tax_micro > 0) poster.Give("tax", amounts.tax_micro, TransferKind::kCreditNote);
    return;
  }
  if (amounts.tax_micro > 0) {
    poster.Return("tax", amounts.tax_micro, TransferKind::kCreditNote, amounts.invoice_no, TransferKind::kTax);
  }
  if (amounts.net_micro > 0) poster.ReturnNet(amounts.net_micro, amounts.month_end_us);
}

}  // namespace gantry::billing
