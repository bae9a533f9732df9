// Credit notes: what of a final invoice is taken back, and why. Numbered in a series of their own, immutable as
// invoices are; the invoice stays as it was issued.
//
// Tax of a note is what the invoice's tax falls by: tax of what has been taken back with it, less the tax of the notes
// before it. So all notes of an invoice never come to more than it, and the last of a whole comes to exactly the rest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"
#include "gantry/v1/invoicing.pb.h"

namespace gantry::billing {

// The money goes to the customer's account: it settles what the invoice has open; payments allocated to what is taken
// back are released and pay what else is open, oldest first. What was paid by promotional credit is not given again;
// where it was not deducted, it comes back as such (PostCreditNote).
//
// INVALID_ARGUMENT: no reason; not exactly one of whole, lines and amount; a line that is not there, twice, or below
// zero. NOT_FOUND: no such invoice. FAILED_PRECONDITION: void, nothing left, of a version that did not book invoices,
// or billing's clock is behind its books. OUT_OF_RANGE: more than is left of the line or the invoice.
absl::StatusOr<v1::Invoice> CreateCreditNote(Database& db, const v1::CreateCreditNoteRequest& request, int64_t now_us);

// At the end of a party, after its last invoice: what a next one would have taken off, carried over from invoices below
// zero or promotional credit that none has deducted, is taken off those there are, the newest first, with its tax. The
// account has that money already; what it gets is the tax, and less than a smallest unit where the sum has parts of
// one. Payments allocated to it are released: so what was paid for it can be refunded. What no invoice can take off
// stays on the account. The numbers of the notes.
absl::StatusOr<std::vector<std::string>> CreditLeftOver(Database& db, const PartyRow& party, int64_t now_us);

}  // namespace gantry::billing
