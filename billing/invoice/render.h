// Invoices for machines and spreadsheets. Pure: no store, no clock; what is printed is what the message says.
#pragma once

#include <string>

#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

// Amounts as decimal strings beside their integers, so that no reader needs floating point. Ends with a newline.
std::string InvoiceJson(const v1::Invoice& invoice);

// RFC 4180: one header row, one row per line, one row "total". Amounts with `minor_digits` decimals, dot as separator.
std::string InvoiceCsv(const v1::Invoice& invoice);

// 12345 with 2 digits -> "123.45".
std::string FormatMinor(int64_t minor, uint32_t digits);

}  // namespace gantry::billing
