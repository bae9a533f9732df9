#include "billing/invoice/credit_note.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "billing/invoice/arithmetic.h"
#include "billing/invoice/currency.h"
#include "billing/invoice/dates.h"
#include "billing/invoice/invoice.h"
#include "billing/invoice/left_over.h"
#include "billing/invoice/postings.h"
#include "billing/invoice/receivables.h"
#include "billing/invoice/series.h"
#include "billing/parties/party_tree.h"
#include "billing/store/chain.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr char kLeftOverReason[] =
    "the account ended: usage that was corrected since, and promotional credit that no invoice had deducted";

// What the notes before have taken back of an invoice.
struct TakenBack {
  int notes = 0;
  int64_t net_minor = 0, tax_minor = 0;
  std::map<uint32_t, int64_t> lines;  // net of each line, from 1; 0: of none in particular
};

absl::StatusOr<TakenBack> TakenBackOf(Database& db, int64_t invoice_no) {
  TakenBack taken;
  Rows rows = db.Query("SELECT net_minor, tax_minor, content FROM credit_note WHERE invoice_no = ?", invoice_no);
  while (rows.Next()) {
    ++taken.notes;
    taken.net_minor += rows.Int(0);
    taken.tax_minor += rows.Int(1);
    v1::Invoice note;
    if (!note.ParseFromString(rows.Text(2))) return absl::DataLossError("a credit note cannot be read");
    for (const v1::InvoiceLine& line : note.lines()) taken.lines[line.original_line()] += line.net_minor();
  }
  return taken;
}

void AddAmount(const v1::Invoice& invoice, int64_t net_minor, v1::Invoice* note) {
  v1::InvoiceLine* line = note->add_lines();
  line->set_kind("credit");
  line->set_quantity(1);
  line->set_net_minor(net_minor);
  // All lines of an invoice are taxed alike.
  line->set_tax_category(invoice.taxes(0).category());
  line->set_tax_rate_ppm(invoice.taxes(0).rate_ppm());
}

absl::Status AddLines(const v1::Invoice& invoice, const v1::CreateCreditNoteRequest& request, const TakenBack& taken,
                      v1::Invoice* note) {
  std::set<uint32_t> seen;
  for (const v1::CreditLine& asked : request.lines()) {
    if (asked.line() < 1 || asked.line() > static_cast<uint32_t>(invoice.lines_size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("lines: expected 1..", invoice.lines_size(), ", found ", asked.line()));
    }
    if (!seen.insert(asked.line()).second) {
      return absl::InvalidArgumentError(absl::StrCat("lines: line ", asked.line(), " is named twice"));
    }
    const v1::InvoiceLine& original = invoice.lines(static_cast<int>(asked.line()) - 1);
    if (original.net_minor() <= 0 || asked.net_minor() < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("lines: of line ", asked.line(), ", which is ", original.net_minor(),
                       ", nothing can be taken back by itself; take back an amount or the whole"));
    }
    const auto before = taken.lines.find(asked.line());
    const int64_t left = original.net_minor() - (before == taken.lines.end() ? 0 : before->second);
    const int64_t net = asked.net_minor() == 0 ? left : asked.net_minor();
    if (net > left || net == 0) {
      return absl::OutOfRangeError(
          absl::StrCat("lines: of line ", asked.line(), " ", left, " is left to take back, asked was ", net));
    }
    v1::InvoiceLine line = original;
    line.set_original_line(asked.line());
    line.set_net_minor(net);
    if (net != original.net_minor()) {
      // A part of an amount is no quantity at a price any more.
      line.set_quantity(1);
      line.set_amount_pico(0);
    }
    *note->add_lines() = std::move(line);
  }
  return absl::OkStatus();
}

absl::Status AddWhole(const v1::Invoice& invoice, const TakenBack& taken, v1::Invoice* note) {
  if (taken.notes > 0) {
    AddAmount(invoice, invoice.net_minor() - taken.net_minor, note);
    return absl::OkStatus();
  }
  *note->mutable_lines() = invoice.lines();
  for (int i = 0; i < note->lines_size(); ++i) note->mutable_lines(i)->set_original_line(static_cast<uint32_t>(i) + 1);
  return absl::OkStatus();
}

// Who, to whom, in what currency: as on the invoice. Lines and sums follow.
v1::Invoice NoteFor(const v1::Invoice& invoice, const std::string& reason) {
  v1::Invoice note = invoice;
  note.set_kind("credit_note");
  note.set_reason(reason);
  note.set_original_number(invoice.number());
  note.set_original_issued_on(invoice.issued_on());
  note.clear_lines();
  note.clear_taxes();
  note.clear_late_usage();
  note.clear_payment_lines();
  note.clear_amount_pico();
  note.clear_requests();
  note.clear_due_on();
  note.clear_paid_minor();
  note.clear_due_minor();
  return note;
}

absl::Status AddTotals(const v1::Invoice& invoice, const TakenBack& taken, v1::Invoice* note) {
  __int128 net = 0;
  for (const v1::InvoiceLine& line : note->lines()) net += line.net_minor();
  if (net > invoice.net_minor() - taken.net_minor) {
    return absl::OutOfRangeError(absl::StrCat("of invoice ", invoice.number(), " ",
                                              invoice.net_minor() - taken.net_minor,
                                              " net is left to take back, in smallest units of ", invoice.currency()));
  }
  note->set_net_minor(static_cast<int64_t>(net));
  const v1::TaxGroup& group = invoice.taxes(0);
  const int64_t tax = TaxOf(taken.net_minor + note->net_minor(), group.rate_ppm()) - taken.tax_minor;
  note->set_tax_minor(tax);
  note->set_total_minor(note->net_minor() + tax);
  v1::TaxGroup* taxed = note->add_taxes();
  *taxed = group;
  taxed->set_taxable_minor(note->net_minor());
  taxed->set_tax_minor(tax);
  return absl::OkStatus();
}

absl::Status CheckAsked(const v1::CreateCreditNoteRequest& request) {
  GANTRY_RETURN_IF_ERROR(CheckReason(request.reason()));
  const int asked = (request.whole() ? 1 : 0) + (request.lines_size() > 0 ? 1 : 0) + (request.net_minor() != 0 ? 1 : 0);
  if (asked != 1 || request.net_minor() < 0) {
    return absl::InvalidArgumentError("expected one of: whole, lines, net_minor > 0");
  }
  return absl::OkStatus();
}

// Settles what is open; what payments had paid of it is theirs again.
void SettleNote(Database& db, const PartyRow& buyer, const FinalInvoice& row, int64_t gross_minor, int64_t now_us) {
  const int64_t open = row.gross_minor - row.credited_minor - row.allocated_minor;
  if (gross_minor > open) Release(db, row.invoice_no, gross_minor - open, 0, now_us);
  AddCredited(db, row.invoice_no, gross_minor);
  AllocateOldestFirst(db, buyer, now_us);
}

// What a note takes off without posting it.
struct Already {
  int64_t carried_micro = 0, promotion_micro = 0;
};

// Numbers a note whose lines are there, keeps and posts it.
absl::StatusOr<v1::Invoice> Issue(Database& db, const FinalInvoice& row, const TakenBack& taken, v1::Invoice note,
                                  const Already& already, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(AddTotals(row.content, taken, &note));
  GANTRY_ASSIGN_OR_RETURN(const PartyRow buyer, PartyByNo(db, row.party_no));
  GANTRY_ASSIGN_OR_RETURN(const PartyRow seller, PartyByNo(db, buyer.parent_no));
  const int64_t issued_day = DayAt(now_us, seller.time_zone);
  const int64_t year = (absl::CivilDay(1970, 1, 1) + issued_day).year();
  GANTRY_ASSIGN_OR_RETURN(const DocumentNumber number, NextNumber(db, seller, SeriesKind::kCreditNotes, year));
  note.set_number(number.name);
  note.set_issued_us(now_us);
  note.set_issued_on(FormatDay(issued_day));
  const std::string content = note.SerializeAsString();
  db.Execute(
      "INSERT INTO credit_note (invoice_no, series, number, name, net_minor, tax_minor, content, hash, issued_us, "
      "carried_micro, promotion_micro) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
      row.invoice_no, number.series, number.number, number.name, note.net_minor(), note.tax_minor(), Blob{content},
      Blob{Sha256(content)}, now_us, already.carried_micro, already.promotion_micro);
  const int64_t micro_per_minor = MicroPerMinor(note.minor_digits());
  PostCreditNote(db, buyer,
                 {.net_micro = note.net_minor() * micro_per_minor,
                  .tax_micro = note.tax_minor() * micro_per_minor,
                  .invoice_no = row.invoice_no,
                  .month_end_us = row.content.period_to_us(),
                  .carried_micro = already.carried_micro,
                  .promotion_micro = already.promotion_micro},
                 {.source = db.LastRowId(), .reference = number.name, .now_us = now_us});
  SettleNote(db, buyer, row, note.total_minor(), now_us);
  return note;
}

}  // namespace

absl::StatusOr<v1::Invoice> CreateCreditNote(Database& db, const v1::CreateCreditNoteRequest& request, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(CheckAsked(request));
  GANTRY_ASSIGN_OR_RETURN(const FinalInvoice row, FindFinal(db, request.number()));
  const v1::Invoice& invoice = row.content;
  if (row.voided) return absl::FailedPreconditionError(absl::StrCat("invoice ", invoice.number(), " is void"));
  if (!row.booked) {
    return absl::FailedPreconditionError(absl::StrCat(
        "invoice ", invoice.number(), " is of a version that did not book invoices; correct its usage instead"));
  }
  GANTRY_RETURN_IF_ERROR(CheckClock(db, now_us));
  GANTRY_ASSIGN_OR_RETURN(const TakenBack taken, TakenBackOf(db, row.invoice_no));
  if (taken.net_minor == invoice.net_minor()) {
    return absl::FailedPreconditionError(
        absl::StrCat("invoice ", invoice.number(), " has nothing left that could be taken back"));
  }
  v1::Invoice note = NoteFor(invoice, request.reason());
  if (request.whole()) {
    GANTRY_RETURN_IF_ERROR(AddWhole(invoice, taken, &note));
  } else if (request.lines_size() > 0) {
    GANTRY_RETURN_IF_ERROR(AddLines(invoice, request, taken, &note));
  } else {
    AddAmount(invoice, request.net_minor(), &note);
  }
  return Issue(db, row, taken, std::move(note), {}, now_us);
}

absl::StatusOr<std::vector<std::string>> CreditLeftOver(Database& db, const PartyRow& party, int64_t now_us) {
  std::vector<std::string> notes;
  const LeftOver left = LeftOverOf(db, party);
  int64_t promotion = std::max<int64_t>(left.not_deducted_micro, 0);
  int64_t carried = left.carried_micro + left.not_deducted_micro - promotion;
  if (carried + promotion <= 0) return notes;
  GANTRY_RETURN_IF_ERROR(CheckClock(db, now_us));
  std::vector<std::string> invoices;
  {
    Rows rows = db.Query(
        "SELECT i.name FROM invoice i JOIN receivable r USING (invoice_no) WHERE i.party_no = ? AND i.booked = 1 AND "
        "r.voided = 0 ORDER BY i.invoice_no DESC",
        party.party_no);
    while (rows.Next()) invoices.push_back(rows.Text(0));
  }
  const int64_t unit = MicroPerMinor(static_cast<uint32_t>(MinorDigits(party.currency)));
  for (const std::string& name : invoices) {
    const int64_t there = carried + promotion;
    if (there <= 0) break;
    GANTRY_ASSIGN_OR_RETURN(const FinalInvoice row, FindFinal(db, name));
    GANTRY_ASSIGN_OR_RETURN(const TakenBack taken, TakenBackOf(db, row.invoice_no));
    const int64_t net = std::min(row.content.net_minor() - taken.net_minor, (there - 1) / unit + 1);
    if (net <= 0) continue;
    Already already;
    already.carried_micro = std::min(carried, net * unit);
    already.promotion_micro = std::min(promotion, net * unit - already.carried_micro);
    carried -= already.carried_micro;
    promotion -= already.promotion_micro;
    v1::Invoice note = NoteFor(row.content, kLeftOverReason);
    AddAmount(row.content, net, &note);
    GANTRY_ASSIGN_OR_RETURN(note, Issue(db, row, taken, std::move(note), already, now_us));
    notes.push_back(note.number());
  }
  return notes;
}

}  // namespace gantry::billing
