#include "billing/invoice/render.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "billing/document/figures.h"

namespace gantry::billing {
namespace {

std::string Decimal(int64_t value, uint32_t digits) {
  return document::Plain(value, static_cast<int>(std::min<uint32_t>(digits, 18)));
}

const char* ClassName(v1::TokenClass token_class) {
  switch (token_class) {
    case v1::TOKEN_CLASS_INPUT:
      return "input";
    case v1::TOKEN_CLASS_CACHED_INPUT:
      return "cached_input";
    case v1::TOKEN_CLASS_OUTPUT:
      return "output";
    case v1::TOKEN_CLASS_REQUEST:
      return "request";
    default:
      return "unspecified";
  }
}

const char* ModeName(v1::TierMode mode) {
  switch (mode) {
    case v1::TIER_MODE_GRADUATED:
      return "graduated";
    case v1::TIER_MODE_VOLUME:
      return "volume";
    case v1::TIER_MODE_PACKAGE:
      return "package";
    default:
      return "flat";
  }
}

std::string Day(int64_t time_us, const v1::Invoice& invoice) {
  absl::TimeZone zone = absl::UTCTimeZone();
  absl::LoadTimeZone(invoice.time_zone(), &zone);
  return absl::FormatTime("%Y-%m-%d", absl::FromUnixMicros(time_us), zone);
}

std::string Hex(const std::string& bytes) {
  return absl::BytesToHexString(bytes);
}

// Quotes what RFC 4180 asks for; a leading =, +, -, @ of outside text gets a quote so that no spreadsheet runs it.
std::string Cell(std::string text) {
  if (!text.empty() && std::string("=+-@\t\r").find(text[0]) != std::string::npos) text.insert(0, "'");
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

}  // namespace

std::string FormatMinor(int64_t minor, uint32_t digits) {
  return Decimal(minor, digits);
}

std::string InvoiceJson(const v1::Invoice& invoice) {
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const v1::InvoiceLine& line : invoice.lines()) {
    lines.push_back({{"kind", line.kind().empty() ? "usage" : line.kind()},
                     {"model", line.model()},
                     {"token_class", ClassName(line.token_class())},
                     {"plan_version_id", Hex(line.plan_version_id())},
                     {"context_from", line.context_from()},
                     {"context_to", line.context_to()},
                     {"mode", ModeName(line.mode())},
                     {"quantity", line.quantity()},
                     {"price_micro_per_m", line.price_micro_per_m()},
                     {"price_per_million", Decimal(line.price_micro_per_m(), 6)},
                     {"amount_pico", line.amount_pico()},
                     {"amount_exact", Decimal(line.amount_pico(), 12)},
                     {"net_minor", line.net_minor()},
                     {"net", Decimal(line.net_minor(), invoice.minor_digits())}});
  }
  nlohmann::ordered_json json = {
      {"number", invoice.number().empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(invoice.number())},
      {"state", invoice.state()},
      {"seller", invoice.seller()},
      {"party", invoice.party_name()},
      {"legal_name", invoice.legal_name()},
      {"period", invoice.period()},
      {"from", Day(invoice.period_from_us(), invoice)},
      {"to_exclusive", Day(invoice.period_to_us(), invoice)},
      {"currency", invoice.currency()},
      {"requests", invoice.requests()},
      {"lines", std::move(lines)},
      {"net_minor", invoice.net_minor()},
      {"net", Decimal(invoice.net_minor(), invoice.minor_digits())},
      {"total_minor", invoice.total_minor()},
      {"total", Decimal(invoice.total_minor(), invoice.minor_digits())},
      {"amount_pico", invoice.amount_pico()},
      {"amount_exact", Decimal(invoice.amount_pico(), 12)},
  };
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string InvoiceCsv(const v1::Invoice& invoice) {
  std::string csv =
      "number,state,seller,party,period,currency,kind,model,token_class,context_from,context_to,mode,plan_version_id,"
      "quantity,price_micro_per_m,amount_pico,net\r\n";
  const std::string head =
      absl::StrCat(Cell(invoice.number()), ",", Cell(invoice.state()), ",", Cell(invoice.seller()), ",",
                   Cell(invoice.party_name()), ",", Cell(invoice.period()), ",", Cell(invoice.currency()), ",");
  for (const v1::InvoiceLine& line : invoice.lines()) {
    absl::StrAppend(&csv, head, line.kind().empty() ? "usage" : line.kind(), ",", Cell(line.model()), ",",
                    ClassName(line.token_class()), ",", line.context_from(), ",", line.context_to(), ",",
                    ModeName(line.mode()), ",", Hex(line.plan_version_id()), ",", line.quantity(), ",",
                    line.price_micro_per_m(), ",", line.amount_pico(), ",",
                    Decimal(line.net_minor(), invoice.minor_digits()), "\r\n");
  }
  absl::StrAppend(&csv, head, "total,,,,,,,,,", invoice.amount_pico(), ",",
                  Decimal(invoice.total_minor(), invoice.minor_digits()), "\r\n");
  return csv;
}

}  // namespace gantry::billing
