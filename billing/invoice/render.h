// Invoices for machines and spreadsheets. Pure: no store, no clock; what is printed is what the message says.
#pragma once

#include <string>

#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

// Amounts as decimal strings beside their integers, so that no reader needs floating point. Ends with a newline.
std::string InvoiceJson(const v1::Invoice& invoice);

// RFC 4180: one header row, one row per line, then rows "net", "tax" (one per category and rate), "total", "paid" and
// "due". Amounts with `minor_digits` decimals, dot as separator.
std::string InvoiceCsv(const v1::Invoice& invoice);

// Quotes what RFC 4180 asks for; a leading =, +, -, @ of outside text gets a quote so that no spreadsheet runs it.
std::string CsvCell(std::string text);

// 12345 with 2 digits -> "123.45".
std::string FormatMinor(int64_t minor, uint32_t digits);

}  // namespace gantry::billing
