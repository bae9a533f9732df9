#include "billing/invoice/invoice_document.h"

#include <algorithm>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "billing/document/figures.h"
#include "billing/document/html.h"
#include "billing/document/pdf.h"

namespace gantry::billing {
namespace {

using document::Align;
using document::RowKind;

constexpr int64_t kMicrosecond = 1;
constexpr uint32_t kMinorDigitsMax = 4;  // of ISO 4217

const char* ClassText(v1::TokenClass token_class) {
  switch (token_class) {
    case v1::TOKEN_CLASS_INPUT:
      return "Input tokens";
    case v1::TOKEN_CLASS_CACHED_INPUT:
      return "Cached input tokens";
    case v1::TOKEN_CLASS_OUTPUT:
      return "Output tokens";
    case v1::TOKEN_CLASS_REQUEST:
      return "Requests";
    default:
      return "Other";
  }
}

// What a line charges for: "Output tokens, contexts from 200,000".
std::string WhatText(const v1::InvoiceLine& line) {
  if (line.kind() == "allowance") return "Free allowance";
  if (line.kind() == "commitment") return "Minimum commitment";
  std::string text = ClassText(line.token_class());
  if (line.context_from() > 0) {
    absl::StrAppend(&text, ", contexts from ", document::Figure(static_cast<int64_t>(line.context_from()), 0, 0));
  }
  if (line.context_to() > 0) {
    absl::StrAppend(&text, line.context_from() > 0 ? " below " : ", contexts below ",
                    document::Figure(static_cast<int64_t>(line.context_to()), 0, 0));
  }
  return text;
}

// Where tiers make the price, the plan says which; the amount is what counts.
std::string PriceText(const v1::InvoiceLine& line) {
  if (line.kind() == "allowance" || line.kind() == "commitment") return "";
  if (line.mode() == v1::TIER_MODE_GRADUATED || line.mode() == v1::TIER_MODE_VOLUME) return "by tier";
  return document::Exact(line.price_micro_per_m(), 6, 2);
}

std::string Day(int64_t time_us, const v1::Invoice& invoice) {
  absl::TimeZone zone = absl::UTCTimeZone();
  absl::LoadTimeZone(invoice.time_zone(), &zone);
  return absl::FormatTime("%Y-%m-%d", absl::FromUnixMicros(time_us), zone);
}

std::string Money(int64_t minor, const v1::Invoice& invoice) {
  const int digits = static_cast<int>(std::min(invoice.minor_digits(), kMinorDigitsMax));
  return document::Figure(minor, digits, digits);
}

// Lines of more than one price list version say which one they are of, by the beginning of its id.
bool SeveralVersions(const v1::Invoice& invoice) {
  std::set<std::string> versions;
  for (const v1::InvoiceLine& line : invoice.lines()) versions.insert(line.plan_version_id());
  return versions.size() > 1;
}

document::Table Lines(const v1::Invoice& invoice) {
  const bool versions = SeveralVersions(invoice);
  document::Table table;
  table.columns = {{"Model"}, {"Class"}};
  if (versions) table.columns.push_back({"Prices"});
  table.columns.push_back({"Quantity", Align::kRight});
  table.columns.push_back({"Price per million", Align::kRight});
  table.columns.push_back({absl::StrCat("Net ", invoice.currency()), Align::kRight});
  for (const v1::InvoiceLine& line : invoice.lines()) {
    document::Row row{{line.model(), WhatText(line)}};
    if (versions) row.cells.push_back(absl::BytesToHexString(line.plan_version_id()).substr(0, 8));
    const bool counted = line.kind().empty() || line.kind() == "usage";
    row.cells.push_back(counted ? document::Figure(line.quantity(), 0, 0) : "");
    row.cells.push_back(PriceText(line));
    row.cells.push_back(Money(line.net_minor(), invoice));
    table.rows.push_back(std::move(row));
  }
  const auto total = [&](const std::string& label, int64_t minor, RowKind kind) {
    document::Row row{std::vector<std::string>(table.columns.size()), kind};
    row.cells.front() = label;
    row.cells.back() = Money(minor, invoice);
    table.rows.push_back(std::move(row));
  };
  total("Net", invoice.net_minor(), RowKind::kSubtotal);
  total(absl::StrCat("Total ", invoice.currency()), invoice.total_minor(), RowKind::kTotal);
  return table;
}

}  // namespace

document::Document InvoiceDocument(const v1::Invoice& invoice) {
  const bool draft = invoice.state() != "final";
  const std::string buyer = invoice.legal_name().empty() ? invoice.party_name() : invoice.legal_name();
  document::Document page;
  page.title = "Invoice";
  page.subtitle = draft ? invoice.period() : absl::StrCat("No. ", invoice.number());
  page.mark = draft ? "DRAFT" : "";
  page.issuer = invoice.seller();
  page.created_us = invoice.period_to_us();
  page.blocks.push_back(document::Parties{{{"Seller", {invoice.seller()}}, {"Buyer", {buyer}}}});
  page.blocks.push_back(document::KeyValues{
      .pairs = {{"Invoice number", draft ? "given when it is final" : invoice.number()},
                {"Account", invoice.party_name()},
                // Half open in the message; people write the last day.
                {absl::StrCat("Period (", invoice.time_zone().empty() ? "UTC" : invoice.time_zone(), ")"),
                 absl::StrCat(Day(invoice.period_from_us(), invoice), " to ",
                              Day(invoice.period_to_us() - kMicrosecond, invoice))},
                {"Requests", document::Figure(invoice.requests(), 0, 0)}},
      .columns = 2});
  page.blocks.push_back(Lines(invoice));
  page.blocks.push_back(document::Paragraph{
      absl::StrCat("Each line is its quantity times its price, exact, and rounded once to the smallest unit of ",
                   invoice.currency(), ". Before rounding the lines add up to ",
                   document::Exact(invoice.amount_pico(), 12, 2), " ", invoice.currency(), ".")});
  return page;
}

absl::StatusOr<document::Rendering> InvoicePdf(const v1::Invoice& invoice) {
  return document::RenderPdf(InvoiceDocument(invoice));
}

absl::StatusOr<document::Rendering> InvoiceHtml(const v1::Invoice& invoice) {
  return document::RenderHtml(InvoiceDocument(invoice));
}

}  // namespace gantry::billing
