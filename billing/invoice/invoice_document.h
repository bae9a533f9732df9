// Invoices for people: what the invoice message says, as a page. Pure: no store, no clock, nothing computed.
#pragma once

#include "absl/status/statusor.h"
#include "billing/document/document.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

// The one place that decides what an invoice shows and where. A draft is marked as such on every page.
document::Document InvoiceDocument(const v1::Invoice& invoice);

// InvoiceDocument drawn. A final invoice gives the same bytes each time on the same machine. INVALID_ARGUMENT: more
// lines than a document holds. See Rendering::warnings for characters without a font.
absl::StatusOr<document::Rendering> InvoicePdf(const v1::Invoice& invoice);
absl::StatusOr<document::Rendering> InvoiceHtml(const v1::Invoice& invoice);

}  // namespace gantry::billing
