// Statements of account: what a party was invoiced and has paid, with the balance before, between and after. Above zero
// is owed to its seller.
//
// Entries have the day on which they were booked (a payment's text says when it was received), so that a statement of
// the past never changes. Usage that is on no invoice yet and promotional credit are not on it:
//
//   owed = -(balance of the account) - usage not invoiced yet + promotional credit not used or not deducted yet
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/invoicing.pb.h"

namespace gantry::billing {

inline constexpr size_t kStatementEntriesMax = 16'000;

// NOT_FOUND: no such party. INVALID_ARGUMENT: days, or the house. OUT_OF_RANGE: more entries than fit; ask for less
// time.
absl::StatusOr<v1::Statement> GetStatement(Database& db, const v1::GetStatementRequest& request, int64_t now_us);

}  // namespace gantry::billing
