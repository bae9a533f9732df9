#include "billing/invoice/statement_document.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "billing/document/figures.h"
#include "billing/document/html.h"
#include "billing/document/pdf.h"
#include "billing/invoice/render.h"

namespace gantry::billing {
namespace {

using document::Align;
using document::RowKind;

const char* KindText(const std::string& kind) {
  if (kind == "invoice") return "Invoice";
  if (kind == "void") return "Void";
  if (kind == "credit_note") return "Credit note";
  if (kind == "payment") return "Payment";
  if (kind == "refund") return "Refund";
  if (kind == "expiry") return "Expired";
  if (kind == "kept") return "Kept";
  if (kind == "unpaid") return "Not paid for";
  return "Other";
}

int DigitsOf(const v1::Statement& statement) {
  return static_cast<int>(std::min<uint32_t>(statement.minor_digits(), 6));
}

// As many decimals as the currency has; more where somebody paid parts of its smallest unit.
std::string Money(int64_t micro, const v1::Statement& statement) {
  return document::Exact(micro, 6, DigitsOf(statement));
}

std::vector<std::string> OnPaper(const v1::InvoiceParty& party) {
  std::vector<std::string> lines = {party.name()};
  lines.insert(lines.end(), party.address_lines().begin(), party.address_lines().end());
  if (!party.country().empty()) lines.push_back(party.country());
  if (!party.vat_id().empty()) lines.push_back(absl::StrCat("VAT id ", party.vat_id()));
  return lines;
}

document::Table Entries(const v1::Statement& statement) {
  document::Table table;
  table.columns = {{"Day"},
                   {"What"},
                   {"Number"},
                   {"Details"},
                   {absl::StrCat("Amount ", statement.currency()), Align::kRight},
                   {"Balance", Align::kRight}};
  table.rows.push_back(
      {{"Opening balance", "", "", "", "", Money(statement.opening_micro(), statement)}, RowKind::kSubtotal});
  for (const v1::StatementEntry& entry : statement.entries()) {
    table.rows.push_back({{entry.day(), KindText(entry.kind()), entry.number(), entry.text(),
                           Money(entry.amount_micro(), statement), Money(entry.balance_micro(), statement)}});
  }
  table.rows.push_back(
      {{"Closing balance", "", "", "", "", Money(statement.closing_micro(), statement)}, RowKind::kTotal});
  return table;
}

}  // namespace

document::Document StatementDocument(const v1::Statement& statement) {
  document::Document page;
  page.title = "Statement of account";
  page.subtitle = absl::StrCat(statement.from(), " to ", statement.to());
  page.issuer = statement.seller().name();
  page.blocks.push_back(
      document::Parties{{{"Seller", OnPaper(statement.seller())}, {"Customer", OnPaper(statement.buyer())}}});
  page.blocks.push_back(document::KeyValues{
      .pairs = {{"Account", statement.party_name()},
                {"Currency", statement.currency()},
                {"Days of", statement.time_zone()},
                {"Open invoices now", FormatMinor(statement.open_minor(), statement.minor_digits())},
                {"Paid in advance now", Money(statement.unallocated_micro(), statement)}},
      .columns = 2});
  page.blocks.push_back(Entries(statement));
  page.blocks.push_back(document::Paragraph{
      absl::StrCat(statement.closing_micro() > 0   ? "The closing balance is owed to the seller. "
                   : statement.closing_micro() < 0 ? "The closing balance is in the customer's favour. "
                                                   : "",
                   "Amounts above zero are owed, those below zero were paid or taken back. Usage that is on no invoice "
                   "yet and promotional credit are not part of it.")});
  return page;
}

absl::StatusOr<document::Rendering> StatementPdf(const v1::Statement& statement) {
  return document::RenderPdf(StatementDocument(statement));
}

absl::StatusOr<document::Rendering> StatementHtml(const v1::Statement& statement) {
  return document::RenderHtml(StatementDocument(statement));
}

std::string StatementJson(const v1::Statement& statement) {
  const auto amount = [](int64_t micro) { return document::Plain(micro, 6); };
  nlohmann::ordered_json entries = nlohmann::ordered_json::array();
  for (const v1::StatementEntry& entry : statement.entries()) {
    entries.push_back({{"day", entry.day()},
                       {"kind", entry.kind()},
                       {"number", entry.number()},
                       {"text", entry.text()},
                       {"amount", amount(entry.amount_micro())},
                       {"amount_micro", entry.amount_micro()},
                       {"balance", amount(entry.balance_micro())},
                       {"balance_micro", entry.balance_micro()}});
  }
  const nlohmann::ordered_json json = {
      {"party", statement.party_name()},
      {"legal_name", statement.buyer().name()},
      {"seller", statement.seller().name()},
      {"currency", statement.currency()},
      {"from", statement.from()},
      {"to", statement.to()},
      {"time_zone", statement.time_zone()},
      {"opening", amount(statement.opening_micro())},
      {"opening_micro", statement.opening_micro()},
      {"entries", std::move(entries)},
      {"closing", amount(statement.closing_micro())},
      {"closing_micro", statement.closing_micro()},
      {"open_now", FormatMinor(statement.open_minor(), statement.minor_digits())},
      {"unallocated_now", amount(statement.unallocated_micro())},
  };
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string StatementCsv(const v1::Statement& statement) {
  const auto amount = [](int64_t micro) { return document::Plain(micro, 6); };
  std::string csv = "party,currency,day,kind,number,text,amount,balance\r\n";
  const std::string head = absl::StrCat(CsvCell(statement.party_name()), ",", CsvCell(statement.currency()), ",");
  absl::StrAppend(&csv, head, statement.from(), ",opening,,,,", amount(statement.opening_micro()), "\r\n");
  for (const v1::StatementEntry& entry : statement.entries()) {
    absl::StrAppend(&csv, head, entry.day(), ",", entry.kind(), ",", CsvCell(entry.number()), ",",
                    CsvCell(entry.text()), ",", amount(entry.amount_micro()), ",", amount(entry.balance_micro()),
                    "\r\n");
  }
  absl::StrAppend(&csv, head, statement.to(), ",closing,,,,", amount(statement.closing_micro()), "\r\n");
  return csv;
}

}  // namespace gantry::billing
