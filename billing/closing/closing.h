// The end of a party (contract: service ClosingAdmin).
//
// It ends in two steps. The first takes effect at once: closed, keys revoked. The second comes when nothing can follow
// any more: no credit is out, no request waits for a witness. Then, in one transaction: an invoice for every month that
// has none, what is left of its money goes where it was decided, and names, addresses, labels and targets are erased.
// The rows of the ledger stay under the party's id; final invoices, accepted quotes and the audit log, which are kept
// by law or are chained, name it still.
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

// The second step of whoever it can be taken for, and what the others wait for. Cheap when nobody is being closed.
absl::Status FinishClosings(Database& db, int64_t now_us);
bool ClosingsAreOpen(Database& db);

// Parties that are being closed and have credit out: whom to call back.
struct CreditOut {
  CreditScope scope;
  std::vector<Lender> lenders;
};
std::vector<CreditOut> CreditOfClosing(Database& db);

}  // namespace gantry::billing
