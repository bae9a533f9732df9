#include "billing/invoice/invoice.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/periods.h"
#include "billing/invoice/arithmetic.h"
#include "billing/invoice/currency.h"
#include "billing/invoice/dates.h"
#include "billing/invoice/left_over.h"
#include "billing/invoice/postings.h"
#include "billing/invoice/receivables.h"
#include "billing/invoice/series.h"
#include "billing/ledger/ledger.h"
#include "billing/parties/parking.h"
#include "billing/parties/party_tree.h"
#include "billing/store/chain.h"
#include "billing/usage/rollup.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr size_t kReasonBytesMax = 500;

// Columns as ReadFinal reads them.
#define FINAL_INVOICE                                                                                                \
  "SELECT i.invoice_no, i.party_no, i.period, i.booked, r.voided, r.gross_minor, r.credited_minor, "                 \
  "r.allocated_minor, coalesce(v.voided_us, 0), coalesce(v.reason, ''), i.content FROM invoice i JOIN receivable r " \
  "USING (invoice_no) LEFT JOIN invoice_void v USING (invoice_no) "

absl::StatusOr<FinalInvoice> ReadFinal(const Rows& rows) {
  FinalInvoice row{.invoice_no = rows.Int(0),
                   .party_no = rows.Int(1),
                   .period = rows.Int(2),
                   .booked = rows.Int(3) == 1,
                   .voided = rows.Int(4) == 1,
                   .gross_minor = rows.Int(5),
                   .credited_minor = rows.Int(6),
                   .allocated_minor = rows.Int(7),
                   .voided_us = rows.Int(8)};
  if (!row.content.ParseFromString(rows.Text(10))) return absl::DataLossError("a final invoice cannot be read");
  if (row.voided) row.content.set_reason(rows.Text(9));
  return row;
}

// The one in force for a period.
absl::StatusOr<bool> FinalOfPeriod(Database& db, const PartyRow& party, int64_t period, v1::Invoice* invoice) {
  FinalInvoice found;
  {
    Rows rows =
        db.Query(FINAL_INVOICE "WHERE r.party_no = ? AND r.period = ? AND r.voided = 0", party.party_no, period);
    if (!rows.Next()) return false;
    GANTRY_ASSIGN_OR_RETURN(found, ReadFinal(rows));
  }
  *invoice = WithStanding(found);
  return true;
}

// A closed party uses nothing any more: its last month is over as soon as nothing is held. When that month's invoice is
// final, what is corrected afterwards stands in one that may not have begun.
absl::Status CheckOver(Database& db, const PartyRow& party, const Period& period, int64_t now_us) {
  if (now_us >= period.to_us) return absl::OkStatus();
  const std::string label = FormatPeriod(period.period);
  if (party.status != v1::PARTY_STATUS_CLOSED ||
      (now_us < period.from_us && RollupOf(db, party.party_no, period.period).empty())) {
    return absl::FailedPreconditionError(absl::StrCat("period ", label, " is not over"));
  }
  const int64_t held = ReadFunds(db, party).held_micro;
  if (held == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("period ", label, " of `", party.name,
                                                    "`, which is closed, is not over: ", held,
                                                    " micro-units are held by requests that may still run"));
}

absl::Status CheckFinalizable(Database& db, const PartyRow& party, const Period& period, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(CheckClock(db, now_us));
  Rows rows = db.Query(
      "SELECT count(*) FROM unmatched m JOIN usage_event u USING (request_id) JOIN rating r ON r.event_seq = u.seq "
      "WHERE m.state = 'waiting' AND r.buyer_no = ? AND r.period = ?",
      party.party_no, period.period);
  if (rows.Next() && rows.Int(0) > 0) {
    return absl::FailedPreconditionError(absl::StrCat(rows.Int(0), " requests of the period wait for a witness"));
  }
  return absl::OkStatus();
}

int64_t NextInvoiceNo(Database& db) {
  Rows rows = db.Query("SELECT coalesce(max(invoice_no), 0) + 1 FROM invoice");
  return rows.Next() ? rows.Int(0) : 0;
}

void InsertInvoice(Database& db, int64_t invoice_no, const PartyRow& party, int64_t period,
                   const DocumentNumber& number, const v1::Invoice& invoice, const InvoiceAmounts& amounts) {
  const std::string content = invoice.SerializeAsString();
  db.Execute(
      "INSERT INTO invoice (invoice_no, party_no, seller_no, period, series, number, name, content, hash, issued_us, "
      "booked, usage_micro, usage_residue_pico, unheld_micro, commitment_micro, promotion_micro, carried_micro, "
      "rounding_micro, net_minor, tax_minor) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      invoice_no, party.party_no, party.parent_no, period, number.series, number.number, number.name, Blob{content},
      Blob{Sha256(content)}, invoice.issued_us(), amounts.usage_micro, amounts.usage_residue_pico, amounts.unheld_micro,
      amounts.commitment_micro, amounts.promotion_micro, amounts.carried_micro, amounts.rounding_micro,
      invoice.net_minor(), invoice.tax_minor());
}

// What was posted for an invoice when it became final.
InvoiceAmounts PostedFor(Database& db, int64_t invoice_no) {
  Rows rows = db.Query(
      "SELECT i.commitment_micro, i.rounding_micro, i.tax_minor, i.carried_micro, p.currency FROM invoice i "
      "JOIN party p USING (party_no) WHERE i.invoice_no = ?",
      invoice_no);
  if (!rows.Next()) return {};
  return {.commitment_micro = rows.Int(0),
          .carried_micro = rows.Int(3),
          .rounding_micro = rows.Int(1),
          .tax_micro = rows.Int(2) * MicroPerMinor(static_cast<uint32_t>(MinorDigits(rows.Text(4))))};
}

absl::Status CheckVoidable(Database& db, const FinalInvoice& row, const InvoiceAmounts& posted) {
  const std::string& number = row.content.number();
  if (row.voided) return absl::FailedPreconditionError(absl::StrCat("invoice ", number, " is void already"));
  if (!row.booked) {
    return absl::FailedPreconditionError(
        absl::StrCat("invoice ", number, " is of a version that did not book invoices; correct its usage instead"));
  }
  if (row.allocated_minor > 0) {
    return absl::FailedPreconditionError(absl::StrCat("payments are allocated to invoice ", number,
                                                      ": release them first (`gantry payment release --invoice ",
                                                      number, "`), or make a credit note"));
  }
  {
    Rows rows = db.Query("SELECT count(*) FROM credit_note WHERE invoice_no = ?", row.invoice_no);
    if (rows.Next() && rows.Int(0) > 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("invoice ", number, " has credit notes; take the rest back with another one"));
    }
  }
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByNo(db, row.party_no));
  if (LeftOverOf(db, party).carried_micro + posted.carried_micro < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("a later invoice took what ", number, " carried over; void that one first, or correct usage"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckReason(const std::string& reason) {
  const bool one_line = std::none_of(reason.begin(), reason.end(), absl::ascii_iscntrl);
  if (!reason.empty() && reason.size() <= kReasonBytesMax && one_line) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("reason: expected 1..", kReasonBytesMax,
                                                 " bytes on one line: it is printed, and stands in the audit log"));
}

absl::Status CheckClock(Database& db, int64_t now_us) {
  Rows rows = db.Query("SELECT booked_us FROM transfer ORDER BY seq DESC LIMIT 1");
  if (rows.Next() && rows.Int(0) > now_us) {
    return absl::FailedPreconditionError("billing's clock is behind its last transfer; set the clock first");
  }
  return absl::OkStatus();
}

v1::Invoice WithStanding(const FinalInvoice& row) {
  v1::Invoice invoice = row.content;
  if (row.voided) invoice.set_state("void");
  invoice.set_voided_us(row.voided_us);
  invoice.set_credited_minor(row.credited_minor);
  invoice.set_allocated_minor(row.allocated_minor);
  invoice.set_open_minor(row.voided ? 0 : row.gross_minor - row.credited_minor - row.allocated_minor);
  return invoice;
}

absl::StatusOr<FinalInvoice> FindFinal(Database& db, const std::string& number) {
  Rows rows = db.Query(FINAL_INVOICE "WHERE i.name = ?", number);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no invoice has the number `", number, "`"));
  return ReadFinal(rows);
}

absl::StatusOr<v1::Invoice> GetInvoice(Database& db, const v1::GetInvoiceRequest& request) {
  GANTRY_ASSIGN_OR_RETURN(PartyRow party, PartyByName(db, request.party_name()));
  GANTRY_ASSIGN_OR_RETURN(const Period period, PeriodNamed(db, party, request.period()));
  v1::Invoice invoice;
  GANTRY_ASSIGN_OR_RETURN(const bool is_final, FinalOfPeriod(db, party, period.period, &invoice));
  if (is_final) return invoice;
  GANTRY_ASSIGN_OR_RETURN(Draft draft, MakeDraft(db, party, period));
  return std::move(draft.invoice);
}

absl::StatusOr<v1::Invoice> FinalizeInvoice(Database& db, const v1::FinalizeInvoiceRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
  GANTRY_ASSIGN_OR_RETURN(const Period named, PeriodNamed(db, party, request.period()));
  v1::Invoice invoice;
  GANTRY_ASSIGN_OR_RETURN(const bool is_final, FinalOfPeriod(db, party, named.period, &invoice));
  if (is_final) return invoice;
  GANTRY_RETURN_IF_ERROR(CheckNotParked({party}));
  GANTRY_RETURN_IF_ERROR(CheckOver(db, party, named, now_us));
  // Stored from now on, whether or not there was any usage.
  GANTRY_ASSIGN_OR_RETURN(const Period period, PeriodAt(db, party, named.from_us));
  GANTRY_RETURN_IF_ERROR(CheckFinalizable(db, party, period, now_us));
  GANTRY_ASSIGN_OR_RETURN(Draft draft, MakeDraft(db, party, period));
  for (const v1::TaxGroup& group : draft.invoice.taxes()) {
    GANTRY_RETURN_IF_ERROR(CheckTaxParties(group.category(), draft.invoice.seller_details().vat_id(),
                                           draft.invoice.buyer_details().vat_id()));
  }
  GANTRY_ASSIGN_OR_RETURN(const DocumentNumber number,
                          NextNumber(db, draft.seller, SeriesKind::kInvoices, period.period / 100));
  const int64_t invoice_no = NextInvoiceNo(db);
  PostInvoice(db, party, draft.amounts, {.source = invoice_no, .reference = number.name, .now_us = now_us});

  invoice = std::move(draft.invoice);
  const int64_t gross_minor = invoice.total_minor();
  const std::vector<Share> shares = PlanShares(db, party, {.wanted_minor = gross_minor, .new_open_minor = gross_minor});
  int64_t paid_minor = 0;
  for (const Share& share : shares) paid_minor += share.amount_minor;
  const int64_t issued_day = DayAt(now_us, draft.seller.time_zone);
  const int64_t due_day = issued_day + draft.seller_profile.terms_days();
  invoice.set_state("final");
  invoice.set_number(number.name);
  invoice.set_issued_us(now_us);
  invoice.set_issued_on(FormatDay(issued_day));
  invoice.set_due_on(FormatDay(due_day));
  invoice.set_paid_minor(paid_minor);
  GANTRY_ASSIGN_OR_RETURN(const int64_t due_minor, AmountDue(gross_minor, paid_minor));
  invoice.set_due_minor(due_minor);
  InsertInvoice(db, invoice_no, party, period.period, number, invoice, draft.amounts);
  OpenReceivable(db, party, invoice_no, period.period, gross_minor, due_day);
  Allocate(db, party, invoice_no, shares, now_us);
  db.Execute("UPDATE billing_period SET closed = 1 WHERE party_no = ? AND period = ?", party.party_no, period.period);
  GANTRY_ASSIGN_OR_RETURN(const FinalInvoice row, FindFinal(db, number.name));
  return WithStanding(row);
}

absl::StatusOr<v1::Invoice> GetDocument(Database& db, const std::string& number) {
  {
    Rows rows = db.Query("SELECT content FROM credit_note WHERE name = ?", number);
    v1::Invoice note;
    if (rows.Next()) {
      if (!note.ParseFromString(rows.Text(0))) return absl::DataLossError("a credit note cannot be read");
      return note;
    }
  }
  absl::StatusOr<FinalInvoice> row = FindFinal(db, number);
  if (absl::IsNotFound(row.status())) {
    return absl::NotFoundError(absl::StrCat("no invoice or credit note has the number `", number, "`"));
  }
  if (!row.ok()) return row.status();
  return WithStanding(*row);
}

absl::StatusOr<v1::ListInvoicesResponse> ListInvoices(Database& db, const v1::ListInvoicesRequest& request,
                                                      int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const int64_t size, PageSize(request.page_size()));
  int64_t buyer = 0, seller = 0, after = 0;
  if (!request.party_name().empty()) {
    GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
    buyer = party.party_no;
  }
  if (!request.seller_name().empty()) {
    GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.seller_name()));
    seller = party.party_no;
  }
  if (!request.page_token().empty() && !absl::SimpleAtoi(request.page_token(), &after)) {
    return absl::InvalidArgumentError("page_token: expected one of an earlier answer");
  }
  const bool open_only = request.open_only() || request.overdue_only();
  v1::ListInvoicesResponse response;
  Rows rows = db.Query(
      "SELECT i.invoice_no, i.name, r.voided, b.name, s.name, r.period, b.currency, r.gross_minor, r.credited_minor, "
      "r.allocated_minor, i.issued_us, r.due_day, s.time_zone, r.open FROM receivable r JOIN invoice i USING "
      "(invoice_no) "
      "JOIN party b ON b.party_no = i.party_no JOIN party s ON s.party_no = i.seller_no "
      "WHERE r.invoice_no > ?1 AND (?2 = 0 OR r.party_no = ?2) AND (?3 = 0 OR i.seller_no = ?3) "
      "AND (?4 = 0 OR r.open = 1) ORDER BY r.invoice_no",
      after, buyer, seller, open_only ? 1 : 0);
  int64_t last = 0;
  while (rows.Next()) {
    const int64_t late = rows.Int(13) == 1 ? DayAt(now_us, rows.Text(12)) - rows.Int(11) : 0;
    if (request.overdue_only() && late <= 0) continue;
    if (response.invoices_size() == size) {
      response.set_next_page_token(absl::StrCat(last));
      break;
    }
    last = rows.Int(0);
    v1::InvoiceSummary* invoice = response.add_invoices();
    invoice->set_number(rows.Text(1));
    invoice->set_state(rows.Int(2) == 1 ? "void" : "final");
    invoice->set_party_name(rows.Text(3));
    invoice->set_seller_name(rows.Text(4));
    invoice->set_period(FormatPeriod(rows.Int(5)));
    invoice->set_currency(rows.Text(6));
    invoice->set_minor_digits(static_cast<uint32_t>(MinorDigits(rows.Text(6))));
    invoice->set_total_minor(rows.Int(7));
    invoice->set_credited_minor(rows.Int(8));
    invoice->set_allocated_minor(rows.Int(9));
    invoice->set_open_minor(rows.Int(2) == 1 ? 0 : rows.Int(7) - rows.Int(8) - rows.Int(9));
    invoice->set_issued_on(FormatDay(DayAt(rows.Int(10), rows.Text(12))));
    invoice->set_due_on(FormatDay(rows.Int(11)));
    invoice->set_days_overdue(static_cast<int32_t>(std::clamp<int64_t>(late, 0, 1'000'000)));
  }
  return response;
}

absl::StatusOr<v1::Invoice> VoidInvoice(Database& db, const v1::VoidInvoiceRequest& request, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(CheckReason(request.reason()));
  GANTRY_ASSIGN_OR_RETURN(FinalInvoice row, FindFinal(db, request.number()));
  const InvoiceAmounts posted = PostedFor(db, row.invoice_no);
  GANTRY_RETURN_IF_ERROR(CheckVoidable(db, row, posted));
  GANTRY_RETURN_IF_ERROR(CheckClock(db, now_us));
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByNo(db, row.party_no));
  PostVoid(db, party, posted, {.source = row.invoice_no, .reference = row.content.number(), .now_us = now_us});
  db.Execute("INSERT INTO invoice_void (invoice_no, reason, voided_us) VALUES (?, ?, ?)", row.invoice_no,
             request.reason(), now_us);
  CloseVoid(db, row.invoice_no);
  db.Execute("UPDATE billing_period SET closed = 0 WHERE party_no = ? AND period = ?", row.party_no, row.period);
  GANTRY_ASSIGN_OR_RETURN(row, FindFinal(db, request.number()));
  return WithStanding(row);
}

}  // namespace gantry::billing
