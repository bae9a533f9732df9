#include "billing/invoice/payments.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "billing/catalog/parties.h"
#include "billing/invoice/currency.h"
#include "billing/invoice/dates.h"
#include "billing/invoice/invoice.h"
#include "billing/invoice/receivables.h"
#include "billing/ledger/ledger.h"
#include "billing/ledger/lots.h"
#include "billing/parties/party_tree.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int64_t kAmountMaxMicro = 1'000'000'000'000'000;
constexpr size_t kMethodBytesMax = 32, kReferenceBytesMax = 140;
constexpr int64_t kReceivedDaysBackMax = 3'660;

bool OnOneLine(const std::string& text) {
  return std::none_of(text.begin(), text.end(), absl::ascii_iscntrl);
}

int64_t UnitOf(const PartyRow& party) {
  return MicroPerMinor(static_cast<uint32_t>(MinorDigits(party.currency)));
}

absl::Status CheckPayment(const v1::RecordPaymentRequest& request, const PartyRow& party) {
  if (party.depth == 0) return absl::InvalidArgumentError("party_name: the house owes nobody");
  if (request.amount_micro() <= 0 || request.amount_micro() > kAmountMaxMicro) {
    return absl::InvalidArgumentError(
        absl::StrCat("amount_micro: expected 1..", kAmountMaxMicro, ", found ", request.amount_micro()));
  }
  if (request.amount_micro() % UnitOf(party) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("amount_micro: ", party.currency, " has ", MinorDigits(party.currency),
                     " decimals, nobody pays parts of its smallest unit; found ", request.amount_micro()));
  }
  if (request.method().empty() || request.method().size() > kMethodBytesMax || !OnOneLine(request.method())) {
    return absl::InvalidArgumentError(
        absl::StrCat("method: expected 1..", kMethodBytesMax, " bytes such as `bank transfer`"));
  }
  if (request.reference().size() > kReferenceBytesMax || !OnOneLine(request.reference())) {
    return absl::InvalidArgumentError(absl::StrCat("reference: expected at most ", kReferenceBytesMax, " bytes"));
  }
  if (request.hold_back() && !request.invoice_number().empty()) {
    return absl::InvalidArgumentError("hold_back: the payment is for an invoice already");
  }
  return absl::OkStatus();
}

// An invoice of the party that can be paid.
absl::StatusOr<FinalInvoice> FindPayable(Database& db, const PartyRow& party, const std::string& number) {
  GANTRY_ASSIGN_OR_RETURN(FinalInvoice row, FindFinal(db, number));
  if (row.party_no != party.party_no) {
    return absl::NotFoundError(absl::StrCat("no invoice of `", party.name, "` has the number `", number, "`"));
  }
  if (row.voided) return absl::InvalidArgumentError(absl::StrCat("invoice_number: ", number, " is void"));
  return row;
}

// Allocates at most `wanted` to one invoice.
int64_t PayInvoice(Database& db, const PartyRow& party, int64_t invoice_no, int64_t wanted_minor, int64_t payment,
                   int64_t now_us) {
  const std::vector<Share> shares = PlanShares(db, party, {.wanted_minor = wanted_minor, .payment = payment});
  Allocate(db, party, invoice_no, shares, now_us);
  int64_t paid = 0;
  for (const Share& share : shares) paid += share.amount_minor;
  return paid;
}

int64_t OpenOf(const FinalInvoice& row) {
  return row.gross_minor - row.credited_minor - row.allocated_minor;
}

void AddAllocations(Database& db, v1::Payment* payment) {
  Rows rows = db.Query(
      "SELECT i.name, sum(a.amount_minor) FROM allocation a JOIN invoice i USING (invoice_no) WHERE a.transfer_seq = ? "
      "GROUP BY a.invoice_no HAVING sum(a.amount_minor) <> 0 ORDER BY a.invoice_no",
      payment->payment());
  while (rows.Next()) {
    v1::Allocation* allocation = payment->add_allocations();
    allocation->set_invoice_number(rows.Text(0));
    allocation->set_amount_minor(rows.Int(1));
  }
}

// Payments of a party from one transfer on.
std::vector<v1::Payment> PaymentsFrom(Database& db, const PartyRow& party, int64_t first_seq, int64_t limit) {
  std::vector<v1::Payment> payments;
  {
    Rows rows = db.Query(
        "SELECT t.seq, t.amount_micro, coalesce(p.allocated_micro, 0), coalesce(p.method, 'top-up'), t.reference, "
        "p.received_day, t.booked_us, coalesce(p.refunded_micro, 0), coalesce(p.held_back, 0) FROM account a JOIN "
        "transfer t ON t.credit_account = a.account_no "
        "LEFT JOIN payment p ON p.transfer_seq = t.seq WHERE a.party_no = ? AND a.type = 'customer' AND a.currency = ? "
        "AND t.kind = 1 AND t.kind <= 2 AND t.seq >= ? ORDER BY t.seq LIMIT ?",
        party.party_no, party.currency, first_seq, limit);
    while (rows.Next()) {
      v1::Payment payment;
      payment.set_payment(static_cast<uint64_t>(rows.Int(0)));
      payment.set_party_name(party.name);
      payment.set_currency(party.currency);
      payment.set_minor_digits(static_cast<uint32_t>(MinorDigits(party.currency)));
      payment.set_amount_micro(rows.Int(1));
      payment.set_allocated_micro(rows.Int(2));
      payment.set_method(rows.Text(3));
      payment.set_reference(rows.Text(4));
      payment.set_received_on(FormatDay(rows.IsNull(5) ? DayAt(rows.Int(6), party.time_zone) : rows.Int(5)));
      payment.set_booked_us(rows.Int(6));
      payment.set_refunded_micro(rows.Int(7));
      payment.set_held_back(rows.Int(8) == 1);
      payments.push_back(std::move(payment));
    }
  }
  for (v1::Payment& payment : payments) AddAllocations(db, &payment);
  return payments;
}

absl::StatusOr<v1::Payment> FindPayment(Database& db, const PartyRow& party, int64_t transfer_seq) {
  std::vector<v1::Payment> found = PaymentsFrom(db, party, transfer_seq, 1);
  if (!found.empty() && static_cast<int64_t>(found[0].payment()) == transfer_seq) return std::move(found[0]);
  return absl::NotFoundError(absl::StrCat("`", party.name, "` has no payment ", transfer_seq));
}

absl::Status CheckRefund(const v1::RefundPaymentRequest& request, const PartyRow& party) {
  if (party.depth == 0) return absl::InvalidArgumentError("party_name: the house pays nobody");
  if (request.amount_micro() <= 0 || request.amount_micro() > kAmountMaxMicro) {
    return absl::InvalidArgumentError(
        absl::StrCat("amount_micro: expected 1..", kAmountMaxMicro, ", found ", request.amount_micro()));
  }
  if (request.reference().empty() || request.reference().size() > kReferenceBytesMax ||
      !OnOneLine(request.reference())) {
    return absl::InvalidArgumentError(
        absl::StrCat("reference: expected 1..", kReferenceBytesMax, " bytes: why, or how the money went back"));
  }
  return absl::OkStatus();
}

// How much could go back, and what bounds it. `payment` 0: of all.
struct Refundable {
  int64_t left = 0, bought = 0, held = 0;
  int64_t possible = 0;
};
Refundable RefundableOf(Database& db, const PartyRow& party, int64_t payment) {
  Refundable of;
  for (const PaymentLeft& p : PaymentsLeft(db, party)) {
    if (payment == 0 || p.transfer_seq == payment) of.left += p.left_micro;
  }
  const Funds funds = ReadFunds(db, party);
  of.held = funds.held_micro;
  {
    Rows rows = db.Query(
        "SELECT coalesce(sum(left_micro), 0) FROM credit_lot WHERE account_no = ? AND kind = 2 AND left_micro > 0",
        funds.account_no);
    if (rows.Next()) of.bought = rows.Int(0);
  }
  of.possible = std::max<int64_t>(
      0, std::min({of.left, UnallocatedMicro(db, party), of.bought, funds.posted_micro - funds.held_micro}));
  return of;
}

// Takes it of the newest payments first. REQUIRES: it is possible.
void PostRefund(Database& db, const PartyRow& party, int64_t payment, int64_t micro, const std::string& reference,
                int64_t now_us) {
  const std::vector<PaymentLeft> payments = PaymentsLeft(db, party);
  {
    Journal journal(db);
    const Account& customer = journal.Open(party.party_no, "customer", party.currency);
    const Account& cash = journal.Open(party.parent_no, "cash", party.currency);
    journal.Post({.debit_account = customer.account_no,
                  .credit_account = cash.account_no,
                  .amount_micro = micro,
                  .kind = TransferKind::kRefund,
                  .reference = reference,
                  .booked_us = now_us});
    UseLotsOfKind(journal, customer, LotKind::kBought, micro);
  }
  for (auto p = payments.rbegin(); p != payments.rend() && micro > 0; ++p) {
    if (payment != 0 && p->transfer_seq != payment) continue;
    const int64_t part = std::min(micro, p->left_micro);
    KnowPayment(db, party, p->transfer_seq);
    db.Execute("UPDATE payment SET refunded_micro = refunded_micro + ? WHERE transfer_seq = ?", part, p->transfer_seq);
    micro -= part;
  }
}

v1::AllocatePaymentResponse Standing(Database& db, const PartyRow& party, int64_t amount_minor) {
  v1::AllocatePaymentResponse response;
  response.set_currency(party.currency);
  response.set_minor_digits(static_cast<uint32_t>(MinorDigits(party.currency)));
  response.set_amount_minor(amount_minor);
  response.set_unallocated_micro(UnallocatedMicro(db, party));
  int64_t open = 0;
  for (const OpenInvoice& invoice : OpenInvoicesOf(db, party)) open += invoice.open_minor;
  response.set_open_minor(open);
  return response;
}

}  // namespace

absl::StatusOr<v1::Payment> RecordPayment(Database& db, const v1::RecordPaymentRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
  GANTRY_RETURN_IF_ERROR(CheckPayment(request, party));
  const int64_t today = DayAt(now_us, party.time_zone);
  int64_t received = today;
  if (!request.received_on().empty()) {
    GANTRY_ASSIGN_OR_RETURN(received, ParseDay(request.received_on(), "received_on"));
    if (received > today || received < today - kReceivedDaysBackMax) {
      return absl::InvalidArgumentError(absl::StrCat("received_on: expected a day of the last ten years, found ",
                                                     request.received_on(), "; today is ", FormatDay(today)));
    }
  }
  FinalInvoice invoice;
  if (!request.invoice_number().empty()) {
    GANTRY_ASSIGN_OR_RETURN(invoice, FindPayable(db, party, request.invoice_number()));
  }
  GANTRY_RETURN_IF_ERROR(
      PostCredit(db, party, {.amount_micro = request.amount_micro(), .reference = request.reference()}, now_us));
  int64_t seq = 0;
  {
    Rows rows = db.Query("SELECT max(seq) FROM transfer");
    if (rows.Next()) seq = rows.Int(0);
  }
  db.Execute(
      "INSERT INTO payment (transfer_seq, party_no, amount_micro, method, received_day, held_back) "
      "VALUES (?, ?, ?, ?, ?, ?)",
      seq, party.party_no, request.amount_micro(), request.method(), received, request.hold_back() ? 1 : 0);
  if (invoice.invoice_no != 0) PayInvoice(db, party, invoice.invoice_no, OpenOf(invoice), seq, now_us);
  if (!request.hold_back()) AllocateOldestFirst(db, party, now_us);
  return FindPayment(db, party, seq);
}

absl::StatusOr<v1::ListPaymentsResponse> ListPayments(Database& db, const v1::ListPaymentsRequest& request) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
  GANTRY_ASSIGN_OR_RETURN(const int64_t size, PageSize(request.page_size()));
  int64_t first = 0;
  if (!request.page_token().empty() && !absl::SimpleAtoi(request.page_token(), &first)) {
    return absl::InvalidArgumentError("page_token: expected one of an earlier answer");
  }
  v1::ListPaymentsResponse response;
  std::vector<v1::Payment> payments = PaymentsFrom(db, party, first, size + 1);
  if (static_cast<int64_t>(payments.size()) > size) {
    response.set_next_page_token(absl::StrCat(payments.back().payment()));
    payments.pop_back();
  }
  for (v1::Payment& payment : payments) *response.add_payments() = std::move(payment);
  return response;
}

absl::StatusOr<v1::AllocatePaymentResponse> AllocatePayment(Database& db, const v1::AllocatePaymentRequest& request,
                                                            int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
  const auto payment = static_cast<int64_t>(request.payment());
  if (request.amount_minor() < 0 || (request.amount_minor() > 0 && request.invoice_number().empty())) {
    return absl::InvalidArgumentError("amount_minor: expected > 0 and the invoice that it is for, or 0");
  }
  int64_t payment_left_micro = UnallocatedMicro(db, party);
  if (payment != 0) {
    GANTRY_ASSIGN_OR_RETURN(const v1::Payment found, FindPayment(db, party, payment));
    payment_left_micro = found.amount_micro() - found.allocated_micro() - found.refunded_micro();
  }
  int64_t allocated = 0;
  if (request.invoice_number().empty()) {
    for (const OpenInvoice& open : OpenInvoicesOf(db, party)) {
      allocated += PayInvoice(db, party, open.invoice_no, open.open_minor, payment, now_us);
    }
    return Standing(db, party, allocated);
  }
  GANTRY_ASSIGN_OR_RETURN(const FinalInvoice invoice, FindPayable(db, party, request.invoice_number()));
  const int64_t open = OpenOf(invoice);
  const int64_t wanted = request.amount_minor() == 0 ? open : std::min(open, request.amount_minor());
  allocated = PayInvoice(db, party, invoice.invoice_no, wanted, payment, now_us);
  if (allocated == 0 || (request.amount_minor() > 0 && allocated < request.amount_minor())) {
    return absl::FailedPreconditionError(
        absl::StrCat("asked for ", request.amount_minor() == 0 ? open : request.amount_minor(), ", possible are ",
                     allocated, ": the invoice has ", open, " open, payments have ", payment_left_micro / UnitOf(party),
                     " left (smallest units of ", party.currency,
                     "); what requests that run hold, and what usage took that is on no invoice yet, cannot be used"));
  }
  return Standing(db, party, allocated);
}

absl::StatusOr<v1::AllocatePaymentResponse> ReleaseAllocations(Database& db,
                                                               const v1::ReleaseAllocationsRequest& request,
                                                               int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const FinalInvoice invoice, FindFinal(db, request.invoice_number()));
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByNo(db, invoice.party_no));
  const int64_t released =
      Release(db, invoice.invoice_no, invoice.allocated_minor, static_cast<int64_t>(request.payment()), now_us);
  if (released == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("nothing", request.payment() == 0 ? "" : absl::StrCat(" of payment ", request.payment()),
                     " is allocated to invoice ", request.invoice_number()));
  }
  return Standing(db, party, released);
}

absl::StatusOr<v1::RefundPaymentResponse> RefundPayment(Database& db, const v1::RefundPaymentRequest& request,
                                                        int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
  GANTRY_RETURN_IF_ERROR(CheckRefund(request, party));
  const auto payment = static_cast<int64_t>(request.payment());
  if (payment != 0) GANTRY_RETURN_IF_ERROR(FindPayment(db, party, payment).status());
  const Refundable of = RefundableOf(db, party, payment);
  if (request.amount_micro() > of.possible) {
    return absl::FailedPreconditionError(
        absl::StrCat("amount_micro: at most ", of.possible, " can be refunded, asked was ", request.amount_micro(),
                     ": payments have ", of.left, " left, of the balance ", of.bought, " was paid and not used, and ",
                     of.held, " is held by running requests"));
  }
  PostRefund(db, party, payment, request.amount_micro(), request.reference(), now_us);
  v1::RefundPaymentResponse response;
  response.set_currency(party.currency);
  response.set_amount_micro(request.amount_micro());
  response.set_unallocated_micro(UnallocatedMicro(db, party));
  response.set_available_micro(ReadFunds(db, party).available_micro);
  return response;
}

int64_t RefundableMicro(Database& db, const PartyRow& party) {
  return RefundableOf(db, party, 0).possible;
}

absl::Status PayWithParts(Database& db, const PartyRow& party, int64_t now_us) {
  int64_t open_micro = 0;
  for (const OpenInvoice& invoice : OpenInvoicesOf(db, party)) open_micro += invoice.open_minor * UnitOf(party);
  if (open_micro == 0 || open_micro > UnallocatedMicro(db, party)) return absl::OkStatus();
  v1::RecordPaymentRequest together;
  together.set_party_name(party.name);
  together.set_amount_micro(open_micro);
  together.set_method("parts of payments");
  GANTRY_RETURN_IF_ERROR(RecordPayment(db, together, now_us).status());
  PostRefund(db, party, 0, open_micro, "parts of payments, put together", now_us);
  return absl::OkStatus();
}

int64_t RefundAll(Database& db, const PartyRow& party, const std::string& reference, int64_t now_us) {
  const int64_t micro = RefundableMicro(db, party);
  if (micro > 0) PostRefund(db, party, 0, micro, reference, now_us);
  return micro;
}

}  // namespace gantry::billing
