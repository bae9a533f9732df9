// Numbers of invoices and credit notes: gapless per seller, kind and year. A number is taken in the transaction of what
// bears it, so that one that fails takes none.
//
//   G2026-000001    the house's invoices for months of 2026        GC2026-000001   its credit notes of 2026
//   S12-2026-000001 those of a reseller without a prefix of its own
//   G2026R2-000001  after a restore that may have lost numbers given to customers (billing/store/lineage.h)
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"

namespace gantry::billing {

enum class SeriesKind { kInvoices = 1, kCreditNotes = 2 };

struct DocumentNumber {
  std::string series;
  int64_t number = 0;
  std::string name;  // as printed: series-000001
};
// The next one; taken when a row with it is written. FAILED_PRECONDITION: the series is another seller's.
absl::StatusOr<DocumentNumber> NextNumber(Database& db, const PartyRow& seller, SeriesKind kind, int64_t year);

// INVALID_ARGUMENT: not 1..12 of A-Z, 0-9 and -, or it ends in a digit, or the party sells nothing. ALREADY_EXISTS:
// another seller has it, had it, or would make the same numbers.
absl::Status CheckSeriesPrefix(Database& db, const PartyRow& seller, const std::string& prefix);

}  // namespace gantry::billing
