// What a buyer owes its seller for a month of its time zone, from its usage alone.
//
// One line per plan version, price line and model: its amount, exact in pico-units, rounded once to minor units, half
// away from zero; then what is free and what lacks to the minimum; totals are sums of rounded lines (EN 16931). A draft
// can be computed at any time; a final one has the next number of its series, gapless, and never changes.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

// The final invoice when there is one, else a draft. NOT_FOUND: no such party; INVALID_ARGUMENT: period.
absl::StatusOr<v1::Invoice> GetInvoice(Database& db, const v1::GetInvoiceRequest& request);

// FAILED_PRECONDITION: the period is not over, requests of it wait for a witness, or billing's clock is behind its
// books. Finalising twice gives the same invoice.
absl::StatusOr<v1::Invoice> FinalizeInvoice(Database& db, const v1::FinalizeInvoiceRequest& request, int64_t now_us);

// ISO 4217: 2 for EUR, 0 for JPY, 3 for KWD.
int MinorDigits(const std::string& currency);

}  // namespace gantry::billing
