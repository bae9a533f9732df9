// gantry payment …, statement: what came in, what it paid, and how an account stands.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "billing/invoice/currency.h"
#include "billing/invoice/render.h"
#include "billing/invoice/statement_document.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/document_output.h"
#include "services/cli/money.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

using Invoices = v1::InvoiceAdmin::Stub;

constexpr uint32_t kPageRows = 1000;

struct PaymentOptions {
  std::string tenant, amount, method, reference, received_on, invoice, from, to, idempotency_key;
  uint64_t payment = 0;
  DocumentOutput output;
  bool hold_back = false, json = false;
};

std::string AllocationsText(const v1::Payment& payment) {
  return absl::StrJoin(payment.allocations(), ", ", [&](std::string* out, const v1::Allocation& allocation) {
    absl::StrAppend(out, allocation.invoice_number(), " ",
                    billing::FormatMinor(allocation.amount_minor(), payment.minor_digits()));
  });
}

absl::StatusOr<int> Record(const PaymentOptions& options, const Invocation& invocation) {
  v1::RecordPaymentRequest request;
  request.set_party_name(options.tenant);
  GANTRY_ASSIGN_OR_RETURN(const int64_t micro, ParseMicro(options.amount));
  request.set_amount_micro(micro);
  request.set_method(options.method);
  request.set_reference(options.reference);
  request.set_received_on(options.received_on);
  request.set_invoice_number(options.invoice);
  request.set_hold_back(options.hold_back);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Payment payment,
                          client.CallOnce(&Invoices::RecordPayment, request, options.idempotency_key));
  *invocation.out << "payment " << payment.payment() << " of " << payment.party_name() << ": "
                  << FormatMicro(payment.amount_micro()) << " " << payment.currency() << "; pays "
                  << (payment.allocations_size() == 0 ? "nothing yet" : AllocationsText(payment)) << "; left "
                  << FormatMicro(payment.amount_micro() - payment.allocated_micro()) << "\n";
  return 0;
}

absl::StatusOr<int> ListAll(const PaymentOptions& options, const Invocation& invocation) {
  v1::ListPaymentsRequest request;
  request.set_party_name(options.tenant);
  request.set_page_size(kPageRows);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  Table table({">PAYMENT", "RECEIVED", "METHOD", "REFERENCE", ">AMOUNT", ">REFUNDED", ">LEFT", "", "PAYS"});
  do {
    GANTRY_ASSIGN_OR_RETURN(const v1::ListPaymentsResponse page, client.Call(&Invoices::ListPayments, request));
    for (const v1::Payment& payment : page.payments()) {
      nlohmann::ordered_json allocations = nlohmann::ordered_json::array();
      for (const v1::Allocation& allocation : payment.allocations()) {
        allocations.push_back({{"invoice", allocation.invoice_number()},
                               {"amount", billing::FormatMinor(allocation.amount_minor(), payment.minor_digits())}});
      }
      const int64_t left = payment.amount_micro() - payment.allocated_micro() - payment.refunded_micro();
      list.push_back({{"payment", payment.payment()},
                      {"received_on", payment.received_on()},
                      {"booked", FormatTimeJson(payment.booked_us())},
                      {"method", payment.method()},
                      {"reference", payment.reference()},
                      {"currency", payment.currency()},
                      {"amount", FormatMicro(payment.amount_micro())},
                      {"refunded", FormatMicro(payment.refunded_micro())},
                      {"left", FormatMicro(left)},
                      {"held_back", payment.held_back()},
                      {"allocations", std::move(allocations)}});
      table.Add({absl::StrCat(payment.payment()), payment.received_on(), payment.method(), payment.reference(),
                 FormatMicro(payment.amount_micro()), FormatMicro(payment.refunded_micro()), FormatMicro(left),
                 payment.currency(),
                 payment.held_back() && payment.allocations_size() == 0 ? "held back" : AllocationsText(payment)});
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  *invocation.out << (options.json ? list.dump(2) + "\n" : table.Render());
  return 0;
}

absl::StatusOr<int> Refund(const PaymentOptions& options, const Invocation& invocation) {
  v1::RefundPaymentRequest request;
  request.set_party_name(options.tenant);
  GANTRY_ASSIGN_OR_RETURN(const int64_t micro, ParseMicro(options.amount));
  request.set_amount_micro(micro);
  request.set_payment(options.payment);
  request.set_reference(options.reference);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::RefundPaymentResponse response,
                          client.CallOnce(&Invoices::RefundPayment, request, options.idempotency_key));
  *invocation.out << "refunded " << FormatMicro(response.amount_micro()) << " " << response.currency()
                  << "; payments have " << FormatMicro(response.unallocated_micro()) << " left\n";
  return 0;
}

void PrintStanding(const char* what, const v1::AllocatePaymentResponse& response, const Invocation& invocation) {
  const auto amount = [&](int64_t minor) { return billing::FormatMinor(minor, response.minor_digits()); };
  *invocation.out << what << " " << amount(response.amount_minor()) << " " << response.currency() << "; payments have "
                  << FormatMicro(response.unallocated_micro()) << " left, invoices have "
                  << amount(response.open_minor()) << " open\n";
}

absl::StatusOr<int> Allocate(const PaymentOptions& options, const Invocation& invocation) {
  v1::AllocatePaymentRequest request;
  request.set_party_name(options.tenant);
  request.set_payment(options.payment);
  request.set_invoice_number(options.invoice);
  if (!options.amount.empty() && options.invoice.empty()) {
    return absl::InvalidArgumentError("--amount goes with --invoice");
  }
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  if (!options.amount.empty()) {
    GANTRY_ASSIGN_OR_RETURN(const int64_t micro, ParseMicro(options.amount));
    v1::GetDocumentRequest by_number;
    by_number.set_number(options.invoice);
    GANTRY_ASSIGN_OR_RETURN(const v1::Invoice invoice, client.Call(&Invoices::GetDocument, by_number));
    const int64_t unit = billing::MicroPerMinor(invoice.minor_digits());
    if (micro % unit != 0) {
      return absl::InvalidArgumentError(absl::StrCat("amount `", options.amount, "` is not valid: ", invoice.currency(),
                                                     " has ", invoice.minor_digits(), " decimals"));
    }
    request.set_amount_minor(micro / unit);
  }
  GANTRY_ASSIGN_OR_RETURN(const v1::AllocatePaymentResponse response,
                          client.CallOnce(&Invoices::AllocatePayment, request, options.idempotency_key));
  PrintStanding("allocated", response, invocation);
  return 0;
}

absl::StatusOr<int> Release(const PaymentOptions& options, const Invocation& invocation) {
  v1::ReleaseAllocationsRequest request;
  request.set_invoice_number(options.invoice);
  request.set_payment(options.payment);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::AllocatePaymentResponse response,
                          client.CallOnce(&Invoices::ReleaseAllocations, request, options.idempotency_key));
  PrintStanding("released", response, invocation);
  return 0;
}

absl::StatusOr<int> ShowStatement(const PaymentOptions& options, const Invocation& invocation) {
  GANTRY_ASSIGN_OR_RETURN(const std::string format, FormatOf(options.output));
  v1::GetStatementRequest request;
  request.set_party_name(options.tenant);
  request.set_from(options.from);
  request.set_to(options.to);
  GANTRY_ASSIGN_OR_RETURN(const AdminClient client, AdminClient::Connect(invocation.data_dir()));
  GANTRY_ASSIGN_OR_RETURN(const v1::Statement statement, client.Call(&Invoices::GetStatement, request));
  GANTRY_RETURN_IF_ERROR(WriteDocument(options.output, format,
                                       {.json = [&] { return billing::StatementJson(statement); },
                                        .csv = [&] { return billing::StatementCsv(statement); },
                                        .html = [&] { return billing::StatementHtml(statement); },
                                        .pdf = [&] { return billing::StatementPdf(statement); }},
                                       invocation));
  return 0;
}

}  // namespace

void AddPaymentCommands(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<PaymentOptions>();
  CLI::App* group = AddGroup(app, "payment", "money that came in: record, list, allocate, release, refund");

  CLI::App* record = AddCommand(
      *group, invocation, "record", "book a payment; it pays open invoices, the rest is credit",
      "gantry payment record --tenant acme 120 --method \"bank transfer\" --reference \"wire 2026-08-03\"\n"
      "gantry payment record --tenant acme 120 --method card --received-on 2026-08-01 --invoice G2026-000017",
      [=, &invocation] { return Record(*options, invocation); });
  record->add_option("--tenant", options->tenant, "who paid")->required()->type_name("T");
  record->add_option("AMOUNT", options->amount, "in the tenant's currency")->required();
  record->add_option("--method", options->method, "how, at most 32 bytes")->required()->type_name("TEXT");
  record->add_option("--reference", options->reference, "as the bank shows it, at most 140 bytes")->type_name("TEXT");
  record->add_option("--received-on", options->received_on, "default: today")->type_name("YYYY-MM-DD");
  record->add_option("--invoice", options->invoice, "pays this one first; default: the oldest")->type_name("N");
  record->add_flag("--hold-back", options->hold_back, "pays only what it is allocated to by its number");
  AddIdempotencyKey(*record, &options->idempotency_key);

  CLI::App* list = AddCommand(*group, invocation, "list", "payments and top-ups, and what they paid",
                              "gantry payment list --tenant acme\ngantry payment list --tenant acme --json",
                              [=, &invocation] { return ListAll(*options, invocation); });
  list->add_option("--tenant", options->tenant, "who paid")->required()->type_name("T");
  list->add_flag("--json", options->json, "as JSON");

  CLI::App* allocate =
      AddCommand(*group, invocation, "allocate", "pay invoices with what payments have left, oldest first",
                 "gantry payment allocate --tenant acme\n"
                 "gantry payment allocate --tenant acme --payment 17 --invoice G2026-000017 --amount 40",
                 [=, &invocation] { return Allocate(*options, invocation); });
  allocate->add_option("--tenant", options->tenant, "whose payments and invoices")->required()->type_name("T");
  allocate->add_option("--payment", options->payment, "of this one; default: of all that are not held back")
      ->type_name("P");
  allocate->add_option("--invoice", options->invoice, "to this one; default: to all open ones")->type_name("N");
  allocate->add_option("--amount", options->amount, "default: as much as possible")->type_name("AMOUNT");
  AddIdempotencyKey(*allocate, &options->idempotency_key);

  CLI::App* release = AddCommand(*group, invocation, "release", "take back what was allocated to an invoice",
                                 "gantry payment release --invoice G2026-000017",
                                 [=, &invocation] { return Release(*options, invocation); });
  release->add_option("--invoice", options->invoice, "of which invoice")->required()->type_name("N");
  release->add_option("--payment", options->payment, "of this payment; default: of all")->type_name("P");
  AddIdempotencyKey(*release, &options->idempotency_key);

  CLI::App* refund = AddCommand(*group, invocation, "refund", "book money that went back, or a payment that never came",
                                "gantry payment refund --tenant acme 20 --reference \"closed, wire back 2026-08-03\"\n"
                                "gantry payment refund --tenant acme 120 --payment 42 --reference \"recorded twice\"",
                                [=, &invocation] { return Refund(*options, invocation); });
  refund->add_option("--tenant", options->tenant, "whose account")->required()->type_name("T");
  refund->add_option("AMOUNT", options->amount, "of what payments have left")->required();
  refund->add_option("--payment", options->payment, "of this one; default: of all, newest first")->type_name("P");
  refund->add_option("--reference", options->reference, "why, or how it went back; 1..140 bytes")
      ->required()
      ->type_name("TEXT");
  AddIdempotencyKey(*refund, &options->idempotency_key);

  CLI::App* statement = AddCommand(
      app, invocation, "statement", "an account: what was invoiced and paid, with opening and closing balance",
      "gantry statement --tenant acme\n"
      "gantry statement --tenant acme --from 2026-07-01 --to 2026-09-30 --output acme-q3.pdf",
      [=, &invocation] { return ShowStatement(*options, invocation); });
  statement->add_option("--tenant", options->tenant, "whose account")->required()->type_name("T");
  statement->add_option("--from", options->from, "first day; default: the account's first")->type_name("YYYY-MM-DD");
  statement->add_option("--to", options->to, "last day; default: today")->type_name("YYYY-MM-DD");
  AddDocumentOutput(*statement, &options->output);
}

}  // namespace gantry::cli
