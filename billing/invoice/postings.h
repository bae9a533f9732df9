// What becomes of money when an invoice is final, void or credited. Usage was debited with each request; here follows
// the rest, so that documents and account agree to the unit.
#pragma once

#include <cstdint>
#include <string>

#include "billing/invoice/draft.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"

namespace gantry::billing {

// What the rows of one document say of themselves.
struct PostingRef {
  int64_t source = 0;     // its row
  std::string reference;  // its number
  int64_t now_us = 0;
};

// Commitment, rounding and tax. The commitment takes promotional credit first, everything else what was paid.
void PostInvoice(Database& db, const PartyRow& buyer, const InvoiceAmounts& amounts, const PostingRef& ref);
// The same the other way: promotional credit comes back as such, as far as it had paid (billing/ledger/lot_use.h).
void PostVoid(Database& db, const PartyRow& buyer, const InvoiceAmounts& amounts, const PostingRef& ref);

// What a credit note takes back.
struct NoteAmounts {
  int64_t net_micro = 0, tax_micro = 0;
  int64_t invoice_no = 0;
  int64_t month_end_us = 0;  // of the invoice
  // Of the net: what the account has already (CreditLeftOver). It is not posted again.
  int64_t carried_micro = 0, promotion_micro = 0;
};
// Money back on the customer's account, from revenue and tax. Promotional credit that paid tax, or debts after the
// month had ended, was not deducted on the invoice and comes back as such; the rest was bought. A note for what the
// account has already deducts that credit: all that is posted of it was bought.
void PostCreditNote(Database& db, const PartyRow& buyer, const NoteAmounts& amounts, const PostingRef& ref);

}  // namespace gantry::billing
