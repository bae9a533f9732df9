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

bool IsUsage(const v1::InvoiceLine& line) {
  return line.kind().empty() || line.kind() == "usage";
}

bool IsCreditNote(const v1::Invoice& invoice) {
  return invoice.kind() == "credit_note";
}

// What a line charges for: "Output tokens, contexts from 200,000".
std::string WhatText(const v1::InvoiceLine& line) {
  if (line.kind() == "allowance") return "Free allowance";
  if (line.kind() == "commitment") return "Minimum commitment";
  if (line.kind() == "unheld") return "Not charged: beyond the credit that was set aside";
  if (line.kind() == "promotion") {
    return line.net_minor() <= 0 ? "Paid by promotional credit" : "Promotional credit that came back";
  }
  if (line.kind() == "carried") return line.net_minor() <= 0 ? "From earlier invoices" : "Left to the next invoice";
  if (line.kind() == "credit") return "Credit";
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
  if (!IsUsage(line)) return "";
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

std::string Percent(int64_t rate_ppm) {
  return document::Exact(rate_ppm, 4, 0);
}

// Not when nothing was ever said about tax.
bool IsTaxed(const v1::TaxGroup& group) {
  return group.category() != v1::TAX_CATEGORY_UNSPECIFIED &&
         !(group.category() == v1::TAX_CATEGORY_O && group.note().empty());
}

// Lines of more than one price list version say which one they are of, by the beginning of its id.
bool SeveralVersions(const v1::Invoice& invoice) {
  std::set<std::string> versions;
  for (const v1::InvoiceLine& line : invoice.lines()) {
    if (!line.plan_version_id().empty()) versions.insert(line.plan_version_id());
  }
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
    // A part of a line that is taken back is an amount, not a quantity at a price.
    const bool counted = IsUsage(line) && !(IsCreditNote(invoice) && line.amount_pico() == 0);
    row.cells.push_back(counted ? document::Figure(line.quantity(), 0, 0) : "");
    row.cells.push_back(counted ? PriceText(line) : "");
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
  for (const v1::TaxGroup& group : invoice.taxes()) {
    if (!IsTaxed(group)) continue;
    total(absl::StrCat("VAT ", Percent(group.rate_ppm()), " % on ", Money(group.taxable_minor(), invoice)),
          group.tax_minor(), RowKind::kSubtotal);
  }
  total(absl::StrCat("Total ", invoice.currency()), invoice.total_minor(), RowKind::kTotal);
  if (invoice.paid_minor() != 0) {
    total("Paid already", -invoice.paid_minor(), RowKind::kSubtotal);
    total(absl::StrCat("Amount due ", invoice.currency()), invoice.due_minor(), RowKind::kTotal);
  }
  return table;
}

// What came after the invoice of its own month, day by day.
document::Table LateUsage(const v1::Invoice& invoice) {
  document::Table table;
  table.columns = {{"Day"},
                   {"Model"},
                   {"Requests", Align::kRight},
                   {"Prompt tokens", Align::kRight},
                   {"of them cached", Align::kRight},
                   {"Output tokens", Align::kRight},
                   {absl::StrCat("Exact ", invoice.currency()), Align::kRight}};
  for (const v1::LateUsage& late : invoice.late_usage()) {
    table.rows.push_back({{late.day(), late.model(), document::Figure(late.requests(), 0, 0),
                           document::Figure(late.prompt_tokens(), 0, 0), document::Figure(late.cached_tokens(), 0, 0),
                           document::Figure(late.output_tokens(), 0, 0), document::Exact(late.amount_pico(), 12, 2)}});
  }
  return table;
}

std::vector<std::string> OnPaper(const v1::InvoiceParty& party, const std::string& name) {
  std::vector<std::string> lines = {party.name().empty() ? name : party.name()};
  lines.insert(lines.end(), party.address_lines().begin(), party.address_lines().end());
  if (!party.country().empty()) lines.push_back(party.country());
  if (!party.vat_id().empty()) lines.push_back(absl::StrCat("VAT id ", party.vat_id()));
  if (!party.registration().empty()) lines.push_back(party.registration());
  if (!party.email().empty()) lines.push_back(party.email());
  return lines;
}

document::KeyValues Facts(const v1::Invoice& invoice) {
  document::KeyValues facts{.columns = 2};
  const auto add = [&](const char* label, const std::string& value) {
    if (!value.empty()) facts.pairs.push_back({label, value});
  };
  const bool draft = invoice.number().empty();
  add(IsCreditNote(invoice) ? "Credit note number" : "Invoice number",
      draft ? "given when it is final" : invoice.number());
  add("Issued on", invoice.issued_on());
  if (IsCreditNote(invoice)) {
    add("Takes back invoice", absl::StrCat(invoice.original_number(), " of ", invoice.original_issued_on()));
  }
  add("Due on", invoice.due_on());
  add("Account", invoice.party_name());
  add("Your reference", invoice.buyer_reference());
  // Half open in the message; people write the last day.
  facts.pairs.push_back({absl::StrCat("Period (", invoice.time_zone().empty() ? "UTC" : invoice.time_zone(), ")"),
                         absl::StrCat(Day(invoice.period_from_us(), invoice), " to ",
                                      Day(invoice.period_to_us() - kMicrosecond, invoice))});
  if (!IsCreditNote(invoice)) add("Requests", document::Figure(invoice.requests(), 0, 0));
  return facts;
}

// How to pay, or that nothing is to be paid.
void AddPayment(const v1::Invoice& invoice, document::Document* page) {
  if (invoice.state() != "final" || IsCreditNote(invoice)) return;
  if (invoice.due_minor() <= 0) {
    if (invoice.paid_minor() > 0) {
      page->blocks.push_back(document::Paragraph{"Paid from the account's balance. Nothing is due."});
    }
    return;
  }
  std::string text = absl::StrCat("Please pay ", Money(invoice.due_minor(), invoice), " ", invoice.currency(),
                                  " until ", invoice.due_on(), ", naming ", invoice.number(), ".");
  for (const std::string& line : invoice.payment_lines()) absl::StrAppend(&text, "\n", line);
  page->blocks.push_back(document::Note{.title = "Payment", .text = text});
}

}  // namespace

document::Document InvoiceDocument(const v1::Invoice& invoice) {
  const bool note = IsCreditNote(invoice);
  const std::string buyer = invoice.legal_name().empty() ? invoice.party_name() : invoice.legal_name();
  document::Document page;
  page.title = note ? "Credit note" : "Invoice";
  page.subtitle = invoice.number().empty() ? invoice.period() : absl::StrCat("No. ", invoice.number());
  page.mark = invoice.state() == "void" ? "VOID" : invoice.state() == "final" ? "" : "DRAFT";
  page.issuer = invoice.seller();
  page.created_us = invoice.issued_us() == 0 ? invoice.period_to_us() : invoice.issued_us();
  page.blocks.push_back(document::Parties{{{"Seller", OnPaper(invoice.seller_details(), invoice.seller())},
                                           {"Buyer", OnPaper(invoice.buyer_details(), buyer)}}});
  page.blocks.push_back(Facts(invoice));
  if (invoice.state() == "void") {
    page.blocks.push_back(
        document::Note{.title = "This invoice is void", .text = invoice.reason(), .tone = document::Tone::kBad});
  }
  if (note) page.blocks.push_back(document::Paragraph{absl::StrCat("Reason: ", invoice.reason())});
  page.blocks.push_back(Lines(invoice));
  for (const v1::TaxGroup& group : invoice.taxes()) {
    if (!group.note().empty()) page.blocks.push_back(document::Paragraph{group.note()});
  }
  AddPayment(invoice, &page);
  if (note) return page;
  page.blocks.push_back(document::Paragraph{
      absl::StrCat("Each line is its quantity times its price, exact, and rounded once to the smallest unit of ",
                   invoice.currency(), ". Before rounding the lines add up to ",
                   document::Exact(invoice.amount_pico(), 12, 2), " ", invoice.currency(), ".")});
  if (invoice.late_usage_size() == 0) return page;
  page.blocks.push_back(document::Heading{"Usage of earlier months", 2});
  page.blocks.push_back(document::Paragraph{
      "Part of the lines above. It became known after the invoice of its own month was final; corrections of usage "
      "that was invoiced before are among it, with the difference that they make."});
  page.blocks.push_back(LateUsage(invoice));
  return page;
}

absl::StatusOr<document::Rendering> InvoicePdf(const v1::Invoice& invoice) {
  return document::RenderPdf(InvoiceDocument(invoice));
}

absl::StatusOr<document::Rendering> InvoiceHtml(const v1::Invoice& invoice) {
  return document::RenderHtml(InvoiceDocument(invoice));
}

}  // namespace gantry::billing
