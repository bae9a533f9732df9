// gantry invoice …: the bills of a month, and what becomes of them.
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "absl/time/clock.h"
#include "billing/invoice/currency.h"
#include "billing/invoice/invoice_document.h"
#include "billing/invoice/render.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/document_output.h"
#include "services/cli/money.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

using Admin = v1::BillingAdmin::Stub;
using Invoices = v1::InvoiceAdmin::Stub;

constexpr uint32_t kPageRows = 1000;

struct InvoiceOptions {
  std::string tenant, seller, period, number, reason, amount, idempotency_key;
  std::vector<std::string> lines;
  DocumentOutput output;
  bool open = false, whole = false, json = false;
};

absl::Status CheckPeriod(const std::string& period) {
  absl::CivilMonth month;
  if (period.size() == 7 && absl::ParseCivilTime(period, &month)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("period `", period, "` is not valid: expected YYYY-MM, for example 2026-07"));
}

std::string Amount(int64_t minor, uint32_t digits) {
  return billing::FormatMinor(minor, digits);
}

// "12.50" -> 1250 with two digits.
absl::StatusOr<int64_t> ParseMinor(const std::string& text, const v1::Invoice& invoice) {
  GANTRY_ASSIGN_OR_RETURN(const int64_t micro, ParseMicro(text));
  const int64_t unit = billing::MicroPerMinor(invoice.minor_digits());
  if (micro % unit != 0) {
    return absl::InvalidArgumentError(absl::StrCat("amount `", text, "` is not valid: ", invoice.currency(), " has ",
                                                   invoice.minor_digits(), " decimals"));
  }
  return micro / unit;
}

absl::Status Write(const v1::Invoice& invoice, const DocumentOutput& output, const std::string& format,
                   const Invocation& invocation) {
  return WriteDocument(output, format,
                       {.json = [&] { return billing::InvoiceJson(invoice); },
                        .csv = [&] { return billing::InvoiceCsv(invoice); },
                        .html = [&] { return billing::InvoiceHtml(invoice); },
                        .pdf = [&] { return billing::InvoicePdf(invoice); }},
                       invocation);
}

absl::StatusOr<int> Show(const InvoiceOptions& options, const Invocation& invocation) {
  if (options.number.empty() == options.tenant.empty() || (!options.number.empty() && !options.period.empty())) {
    return absl::InvalidArgumentError("which invoice? --number, or --tenant with --period");
  }
  GANTRY_ASSIGN_OR_RETURN(const std::string format, FormatOf(options.output));
  v1::GetInvoiceRequest request;
  request.set_party_name(options.tenant);
  request.set_period(options.period.empty() ? absl::FormatTime("%Y-%m", absl::Now(), absl::UTCTimeZone())
                                            : options.period);
  GANTRY_RETURN_IF_ERROR(CheckPeriod(request.period()));
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  v1::Invoice invoice;
  if (options.number.empty()) {
    GANTRY_ASSIGN_OR_RETURN(invoice, client.Call(&Admin::GetInvoice, request));
  } else {
    v1::GetDocumentRequest by_number;
    by_number.set_number(options.number);
    GANTRY_ASSIGN_OR_RETURN(invoice, client.Call(&Invoices::GetDocument, by_number));
  }
  GANTRY_RETURN_IF_ERROR(Write(invoice, options.output, format, invocation));
  return 0;
}

// To a file when one is named, else what there is to know in one line.
absl::StatusOr<int> Report(const v1::Invoice& invoice, const std::string& line, const InvoiceOptions& options,
                           const Invocation& invocation) {
  if (options.output.file.empty() && options.output.format.empty()) {
    *invocation.out << line << "\n";
    return 0;
  }
  GANTRY_ASSIGN_OR_RETURN(const std::string format, FormatOf(options.output));
  GANTRY_RETURN_IF_ERROR(Write(invoice, options.output, format, invocation));
  return 0;
}

absl::StatusOr<int> Finalize(const InvoiceOptions& options, const Invocation& invocation) {
  GANTRY_RETURN_IF_ERROR(CheckPeriod(options.period));
  GANTRY_RETURN_IF_ERROR(FormatOf(options.output).status());
  v1::FinalizeInvoiceRequest request;
  request.set_party_name(options.tenant);
  request.set_period(options.period);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Invoice invoice,
                          client.CallOnce(&Admin::FinalizeInvoice, request, options.idempotency_key));
  const auto amount = [&](int64_t minor) { return Amount(minor, invoice.minor_digits()); };
  return Report(invoice,
                absl::StrCat("invoice ", invoice.number(), ": ", amount(invoice.total_minor()), " ", invoice.currency(),
                             " with tax of ", amount(invoice.tax_minor()), "; paid ", amount(invoice.paid_minor()),
                             ", due ", amount(invoice.due_minor()), " until ", invoice.due_on()),
                options, invocation);
}

// "3", or "3=12.50". `invoice` null: whether it is well-formed, without the amount.
absl::StatusOr<v1::CreditLine> ParseLine(const std::string& text, const v1::Invoice* invoice) {
  const size_t equals = text.find('=');
  v1::CreditLine line;
  uint32_t number = 0;
  if (!absl::SimpleAtoi(text.substr(0, equals), &number) || number == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("line `", text, "` is not valid: expected a line's number from 1, or NUMBER=AMOUNT"));
  }
  line.set_line(number);
  if (equals == std::string::npos || invoice == nullptr) return line;
  GANTRY_ASSIGN_OR_RETURN(const int64_t minor, ParseMinor(text.substr(equals + 1), *invoice));
  line.set_net_minor(minor);
  return line;
}

absl::StatusOr<int> Credit(const InvoiceOptions& options, const Invocation& invocation) {
  if ((options.whole ? 1 : 0) + (options.lines.empty() ? 0 : 1) + (options.amount.empty() ? 0 : 1) != 1) {
    return absl::InvalidArgumentError("how much? --whole, --line or --amount, one of them");
  }
  // Refused before anything is asked of billing.
  for (const std::string& line : options.lines) GANTRY_RETURN_IF_ERROR(ParseLine(line, nullptr).status());
  GANTRY_RETURN_IF_ERROR(FormatOf(options.output).status());
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  v1::GetDocumentRequest original;
  original.set_number(options.number);
  GANTRY_ASSIGN_OR_RETURN(const v1::Invoice invoice, client.Call(&Invoices::GetDocument, original));
  v1::CreateCreditNoteRequest request;
  request.set_number(options.number);
  request.set_reason(options.reason);
  request.set_whole(options.whole);
  for (const std::string& text : options.lines) {
    GANTRY_ASSIGN_OR_RETURN(*request.add_lines(), ParseLine(text, &invoice));
  }
  if (!options.amount.empty()) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t minor, ParseMinor(options.amount, invoice));
    request.set_net_minor(minor);
  }
  GANTRY_ASSIGN_OR_RETURN(const v1::Invoice note,
                          client.CallOnce(&Invoices::CreateCreditNote, request, options.idempotency_key));
  return Report(note,
                absl::StrCat("credit note ", note.number(), " of ", note.original_number(), ": ",
                             Amount(note.total_minor(), note.minor_digits()), " ", note.currency(), " with tax of ",
                             Amount(note.tax_minor(), note.minor_digits())),
                options, invocation);
}

absl::StatusOr<int> Void(const InvoiceOptions& options, const Invocation& invocation) {
  v1::VoidInvoiceRequest request;
  request.set_number(options.number);
  request.set_reason(options.reason);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Invoice invoice,
                          client.CallOnce(&Invoices::VoidInvoice, request, options.idempotency_key));
  *invocation.out << "invoice " << invoice.number() << " is void; " << invoice.period() << " of "
                  << invoice.party_name() << " can be invoiced anew: gantry invoice finalize --tenant "
                  << invoice.party_name() << " --period " << invoice.period() << "\n";
  return 0;
}

absl::StatusOr<int> List(const InvoiceOptions& options, bool overdue, const Invocation& invocation) {
  v1::ListInvoicesRequest request;
  request.set_party_name(options.tenant);
  request.set_seller_name(options.seller);
  request.set_open_only(options.open);
  request.set_overdue_only(overdue);
  request.set_page_size(kPageRows);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  Table table({"NUMBER", "TENANT", "PERIOD", "STATE", "ISSUED", "DUE", ">TOTAL", ">CREDITED", ">PAID", ">OPEN", "",
               ">DAYS OVERDUE"});
  do {
    GANTRY_ASSIGN_OR_RETURN(const v1::ListInvoicesResponse page, client.Call(&Invoices::ListInvoices, request));
    for (const v1::InvoiceSummary& row : page.invoices()) {
      const auto amount = [&](int64_t minor) { return Amount(minor, row.minor_digits()); };
      list.push_back({{"number", row.number()},
                      {"state", row.state()},
                      {"tenant", row.party_name()},
                      {"seller", row.seller_name()},
                      {"period", row.period()},
                      {"currency", row.currency()},
                      {"total", amount(row.total_minor())},
                      {"credited", amount(row.credited_minor())},
                      {"paid", amount(row.allocated_minor())},
                      {"open", amount(row.open_minor())},
                      {"issued_on", row.issued_on()},
                      {"due_on", row.due_on()},
                      {"days_overdue", row.days_overdue()}});
      table.Add({row.number(), row.party_name(), row.period(), row.state(), row.issued_on(), row.due_on(),
                 amount(row.total_minor()), amount(row.credited_minor()), amount(row.allocated_minor()),
                 amount(row.open_minor()), row.currency(),
                 row.days_overdue() == 0 ? "" : absl::StrCat(row.days_overdue())});
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  *invocation.out << (options.json ? list.dump(2) + "\n" : table.Render());
  return 0;
}

}  // namespace

void AddInvoiceCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<InvoiceOptions>();
  CLI::App* group = AddGroup(app, "invoice", "the bills of a month: show, list, overdue, finalize, credit, void");

  CLI::App* show = AddCommand(*group, invocation, "show", "an invoice or a credit note; a draft until it is finalised",
                              "gantry invoice show --tenant acme\n"
                              "gantry invoice show --tenant acme --period 2026-07 --format csv > acme-2026-07.csv\n"
                              "gantry invoice show --number G2026-000017 --output G2026-000017.pdf",
                              [=, &invocation] { return Show(*options, invocation); });
  show->add_option("--tenant", options->tenant, "whose bill")->type_name("T");
  show->add_option("--period", options->period, "YYYY-MM in its time zone; default: this month")->type_name("YYYY-MM");
  show->add_option("--number", options->number, "of a final invoice or a credit note")->type_name("N");
  AddDocumentOutput(*show, &options->output);

  CLI::App* list = AddCommand(*group, invocation, "list", "final invoices, oldest first",
                              "gantry invoice list\ngantry invoice list --tenant acme --open --json",
                              [=, &invocation] { return List(*options, false, invocation); });
  list->add_option("--tenant", options->tenant, "of this buyer; default: of all")->type_name("T");
  list->add_option("--seller", options->seller, "of this seller; default: of all")->type_name("S");
  list->add_flag("--open", options->open, "those alone of which something is owed");
  list->add_flag("--json", options->json, "as JSON");

  CLI::App* overdue = AddCommand(*group, invocation, "overdue", "what should have been paid, with days",
                                 "gantry invoice overdue\ngantry invoice overdue --seller alpine --json",
                                 [=, &invocation] { return List(*options, true, invocation); });
  overdue->add_option("--tenant", options->tenant, "of this buyer; default: of all")->type_name("T");
  overdue->add_option("--seller", options->seller, "of this seller; default: of all")->type_name("S");
  overdue->add_flag("--json", options->json, "as JSON");

  CLI::App* finalize =
      AddCommand(*group, invocation, "finalize", "give a month's invoice its number; nothing changes after",
                 "gantry invoice finalize --tenant acme --period 2026-07\n"
                 "gantry invoice finalize --tenant acme --period 2026-07 --output acme-2026-07.pdf",
                 [=, &invocation] { return Finalize(*options, invocation); });
  finalize->add_option("--tenant", options->tenant, "whose bill")->required()->type_name("T");
  finalize->add_option("--period", options->period, "YYYY-MM in its time zone; must be over")
      ->required()
      ->type_name("YYYY-MM");
  AddDocumentOutput(*finalize, &options->output);
  AddIdempotencyKey(*finalize, &options->idempotency_key);

  CLI::App* credit =
      AddCommand(*group, invocation, "credit", "take back an invoice or a part of it, with a credit note",
                 "gantry invoice credit G2026-000017 --whole --reason \"charged twice\"\n"
                 "gantry invoice credit G2026-000017 --line 3 --line 4=12.50 --reason \"garbled output\"\n"
                 "gantry invoice credit G2026-000017 --amount 20 --reason \"slow in July\" --output note.pdf",
                 [=, &invocation] { return Credit(*options, invocation); });
  credit->add_option("NUMBER", options->number, "of the invoice")->required();
  credit->add_flag("--whole", options->whole, "all that is left of it");
  credit->add_option("--line", options->lines, "a line, from 1, or a net part of it: N=AMOUNT; may be repeated")
      ->type_name("N")
      ->allow_extra_args(false);
  credit->add_option("--amount", options->amount, "net")->type_name("AMOUNT");
  credit->add_option("--reason", options->reason, "printed")->required()->type_name("TEXT");
  AddDocumentOutput(*credit, &options->output);
  AddIdempotencyKey(*credit, &options->idempotency_key);

  CLI::App* gone = AddCommand(*group, invocation, "void",
                              "take an unpaid invoice out of force; its number stays used, its month is open again",
                              "gantry invoice void G2026-000017 --reason \"wrong address\"",
                              [=, &invocation] { return Void(*options, invocation); });
  gone->add_option("NUMBER", options->number, "of the invoice")->required();
  gone->add_option("--reason", options->reason, "printed")->required()->type_name("TEXT");
  AddIdempotencyKey(*gone, &options->idempotency_key);
}

}  // namespace gantry::cli
