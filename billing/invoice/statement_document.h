// Statements of account as a page, for machines and for spreadsheets: the same figures each time. Pure.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "billing/document/document.h"
#include "gantry/v1/invoicing.pb.h"

namespace gantry::billing {

// The one place that decides what a statement shows and where.
document::Document StatementDocument(const v1::Statement& statement);

// StatementDocument drawn. INVALID_ARGUMENT: more entries than a document holds.
absl::StatusOr<document::Rendering> StatementPdf(const v1::Statement& statement);
absl::StatusOr<document::Rendering> StatementHtml(const v1::Statement& statement);

// Amounts as decimal strings beside their integers. Ends with a newline.
std::string StatementJson(const v1::Statement& statement);
// RFC 4180: a header row, "opening", one row per entry, "closing".
std::string StatementCsv(const v1::Statement& statement);

}  // namespace gantry::billing
