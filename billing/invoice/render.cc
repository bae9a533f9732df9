#include "billing/invoice/render.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "billing/document/figures.h"
#include "billing/invoice/arithmetic.h"
#include "billing/rating/price_names.h"

namespace gantry::billing {
namespace {

std::string Decimal(int64_t value, uint32_t digits) {
  return document::Plain(value, static_cast<int>(std::min<uint32_t>(digits, 18)));
}

std::string Day(int64_t time_us, const v1::Invoice& invoice) {
  absl::TimeZone zone = absl::UTCTimeZone();
  absl::LoadTimeZone(invoice.time_zone(), &zone);
  return absl::FormatTime("%Y-%m-%d", absl::FromUnixMicros(time_us), zone);
}

std::string Percent(int64_t rate_ppm) {
  return document::Exact(rate_ppm, 4, 0);
}

std::string DocumentName(const v1::Invoice& invoice) {
  return invoice.kind().empty() ? "invoice" : invoice.kind();
}

nlohmann::ordered_json PartyJson(const v1::InvoiceParty& party) {
  return {{"name", party.name()},
          {"address_lines", std::vector<std::string>(party.address_lines().begin(), party.address_lines().end())},
          {"country", party.country()},
          {"vat_id", party.vat_id()},
          {"registration", party.registration()},
          {"email", party.email()}};
}

std::string Hex(const std::string& bytes) {
  return absl::BytesToHexString(bytes);
}

}  // namespace

std::string CsvCell(std::string text) {
  if (!text.empty() && std::string("=+-@\t\r").find(text[0]) != std::string::npos) text.insert(0, "'");
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

std::string FormatMinor(int64_t minor, uint32_t digits) {
  return Decimal(minor, digits);
}

std::string InvoiceJson(const v1::Invoice& invoice) {
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const v1::InvoiceLine& line : invoice.lines()) {
    lines.push_back({{"kind", line.kind().empty() ? "usage" : line.kind()},
                     {"model", line.model()},
                     {"token_class", TokenClassName(line.token_class())},
                     {"plan_version_id", Hex(line.plan_version_id())},
                     {"context_from", line.context_from()},
                     {"context_to", line.context_to()},
                     {"mode", TierModeName(line.mode())},
                     {"quantity", line.quantity()},
                     {"price_micro_per_m", line.price_micro_per_m()},
                     {"price_per_million", Decimal(line.price_micro_per_m(), 6)},
                     {"amount_pico", line.amount_pico()},
                     {"amount_exact", Decimal(line.amount_pico(), 12)},
                     {"net_minor", line.net_minor()},
                     {"net", Decimal(line.net_minor(), invoice.minor_digits())},
                     {"tax_category", TaxCategoryCode(line.tax_category())},
                     {"tax_percent", Percent(line.tax_rate_ppm())}});
    if (line.original_line() > 0) lines.back()["original_line"] = line.original_line();
  }
  const auto amount = [&](int64_t minor) { return Decimal(minor, invoice.minor_digits()); };
  nlohmann::ordered_json taxes = nlohmann::ordered_json::array();
  for (const v1::TaxGroup& group : invoice.taxes()) {
    taxes.push_back({{"category", TaxCategoryCode(group.category())},
                     {"percent", Percent(group.rate_ppm())},
                     {"taxable", amount(group.taxable_minor())},
                     {"tax", amount(group.tax_minor())},
                     {"note", group.note()}});
  }
  nlohmann::ordered_json late = nlohmann::ordered_json::array();
  for (const v1::LateUsage& usage : invoice.late_usage()) {
    late.push_back({{"day", usage.day()},
                    {"model", usage.model()},
                    {"requests", usage.requests()},
                    {"prompt_tokens", usage.prompt_tokens()},
                    {"cached_tokens", usage.cached_tokens()},
                    {"output_tokens", usage.output_tokens()},
                    {"amount_pico", usage.amount_pico()},
                    {"amount_exact", Decimal(usage.amount_pico(), 12)}});
  }
  nlohmann::ordered_json json = {
      {"number", invoice.number().empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(invoice.number())},
      {"state", invoice.state()},
      {"document", DocumentName(invoice)},
      {"issued_on", invoice.issued_on()},
      {"due_on", invoice.due_on()},
      {"seller", invoice.seller()},
      {"seller_party", invoice.seller_name()},
      {"seller_details", PartyJson(invoice.seller_details())},
      {"party", invoice.party_name()},
      {"legal_name", invoice.legal_name()},
      {"buyer_details", PartyJson(invoice.buyer_details())},
      {"buyer_reference", invoice.buyer_reference()},
      {"payment_lines", std::vector<std::string>(invoice.payment_lines().begin(), invoice.payment_lines().end())},
      {"period", invoice.period()},
      {"from", Day(invoice.period_from_us(), invoice)},
      {"to_exclusive", Day(invoice.period_to_us(), invoice)},
      {"currency", invoice.currency()},
      {"requests", invoice.requests()},
      {"lines", std::move(lines)},
      {"net_minor", invoice.net_minor()},
      {"net", amount(invoice.net_minor())},
      {"taxes", std::move(taxes)},
      {"tax_minor", invoice.tax_minor()},
      {"tax", amount(invoice.tax_minor())},
      {"total_minor", invoice.total_minor()},
      {"total", amount(invoice.total_minor())},
      {"paid", amount(invoice.paid_minor())},
      {"due", amount(invoice.due_minor())},
      {"amount_pico", invoice.amount_pico()},
      {"amount_exact", Decimal(invoice.amount_pico(), 12)},
      {"late_usage", std::move(late)},
  };
  if (DocumentName(invoice) == "credit_note") {
    json["original_number"] = invoice.original_number();
    json["original_issued_on"] = invoice.original_issued_on();
  }
  if (!invoice.reason().empty()) json["reason"] = invoice.reason();
  if (DocumentName(invoice) == "invoice" && !invoice.number().empty()) {
    // How it stands now: what follows is not part of what was issued.
    json["standing"] = {{"credited", amount(invoice.credited_minor())},
                        {"allocated", amount(invoice.allocated_minor())},
                        {"open", amount(invoice.open_minor())}};
  }
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string InvoiceCsv(const v1::Invoice& invoice) {
  std::string csv =
      "number,state,document,issued_on,due_on,original,seller,party,period,currency,kind,model,token_class,context_"
      "from,"
      "context_to,mode,plan_version_id,quantity,price_micro_per_m,amount_pico,net,tax_category,tax_percent\r\n";
  const auto amount = [&](int64_t minor) { return Decimal(minor, invoice.minor_digits()); };
  const std::string head = absl::StrCat(CsvCell(invoice.number()), ",", CsvCell(invoice.state()), ",",
                                        DocumentName(invoice), ",", CsvCell(invoice.issued_on()), ",",
                                        CsvCell(invoice.due_on()), ",", CsvCell(invoice.original_number()), ",",
                                        CsvCell(invoice.seller()), ",", CsvCell(invoice.party_name()), ",",
                                        CsvCell(invoice.period()), ",", CsvCell(invoice.currency()), ",");
  for (const v1::InvoiceLine& line : invoice.lines()) {
    absl::StrAppend(&csv, head, line.kind().empty() ? "usage" : line.kind(), ",", CsvCell(line.model()), ",",
                    TokenClassName(line.token_class()), ",", line.context_from(), ",", line.context_to(), ",",
                    TierModeName(line.mode()), ",", Hex(line.plan_version_id()), ",", line.quantity(), ",",
                    line.price_micro_per_m(), ",", line.amount_pico(), ",", amount(line.net_minor()), ",",
                    TaxCategoryCode(line.tax_category()), ",", Percent(line.tax_rate_ppm()), "\r\n");
  }
  const auto sum = [&](const char* kind, const std::string& pico, int64_t minor, const std::string& tax = ",") {
    absl::StrAppend(&csv, head, kind, ",,,,,,,,,", pico, ",", amount(minor), ",", tax, "\r\n");
  };
  sum("net", absl::StrCat(invoice.amount_pico()), invoice.net_minor());
  for (const v1::TaxGroup& group : invoice.taxes()) {
    sum("tax", "", group.tax_minor(), absl::StrCat(TaxCategoryCode(group.category()), ",", Percent(group.rate_ppm())));
  }
  sum("total", "", invoice.total_minor());
  sum("paid", "", invoice.paid_minor());
  sum("due", "", invoice.due_minor());
  return csv;
}

}  // namespace gantry::billing
