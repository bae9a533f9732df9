// The end of a party (contract: service ClosingAdmin).
//
// It ends in two steps. The first takes effect at once: closed, keys revoked. The second comes when nothing can follow
// any more: no slice or hold is open, no request waits for a witness, and most gateways agree with billing's clock,
// which says what months there are to invoice. Then, in one transaction: an invoice for every month that has none, what
// is left of its money goes where it was decided, and names, addresses, labels and targets are erased. The rows of the
// ledger stay under the party's id; final invoices, accepted quotes and the audit log, which are kept by law or are
// chained, name it still.
//
// What a next invoice would take off, past ones take off by credit notes (CreditLeftOver): usage that was corrected
// after it had been paid is refundable so, with its tax. Refunds never exceed what payments have left, so bought credit
// that no payment stands for cannot be paid out, as when usage was both credited by a note and corrected. It is kept;
// the closing and the statement say how much (`unpaid_micro`). Nothing but a debt, and what Finish waits for, keeps a
// party from its end.
//
// Why no usage that the party owes comes after its last invoice, whatever gateways have spooled: a gateway closes a
// slice when nothing is held of it and billing has every record that names it. The exception is a gateway that was
// lost. Its slices are closed for it when it has been fenced for the longest request and the witness deadline (R9), and
// its spool may turn up years later. Those records are booked then as at any time: rated, in the party's next month,
// and paid by the house (`late_unheld`), since nothing is set aside for them; resellers above pay their own hop as far
// as they have free money. An invoice of that month would come to nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/ledger/credit_scopes.h"
#include "billing/store/database.h"
#include "gantry/v1/closing.pb.h"

namespace gantry::billing {

// The first step. Closing a party that is being closed gives how it stands. INVALID_ARGUMENT: reason, leftover.
absl::StatusOr<v1::Closing> CloseParty(Database& db, const v1::ClosePartyRequest& request, int64_t now_us);
// NOT_FOUND: no such party, or it is not being closed.
absl::StatusOr<v1::Closing> GetClosing(Database& db, const v1::GetClosingRequest& request);

// The second step of whoever it can be taken for, and what the others wait for. `clocks`: what GatewayClocks::Check
// says (billing/usage/gateway_clocks.h); while it is an error nothing becomes final, as for any invoice. Cheap when
// nobody is being closed.
absl::Status FinishClosings(Database& db, const absl::Status& clocks, int64_t now_us);
bool ClosingsAreOpen(Database& db);

// Parties that are being closed and have slices out: whom to call back.
struct CreditOut {
  CreditScope scope;
  std::vector<Lender> lenders;
};
std::vector<CreditOut> CreditOfClosing(Database& db);

}  // namespace gantry::billing
