#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "billing/audit/checks.h"
#include "billing/invoice/arithmetic.h"
#include "billing/invoice/currency.h"
#include "billing/store/chain.h"

namespace gantry::billing {
namespace {

int64_t UnitOf(const std::string& currency) {
  return MicroPerMinor(static_cast<uint32_t>(MinorDigits(currency)));
}

// Whether a document's sums follow from its lines. Empty when they do. `own_tax`: tax is its rate's, not a difference.
std::string CheckTotals(const v1::Invoice& document, bool own_tax) {
  std::vector<TaxedLine> lines;
  for (const v1::InvoiceLine& line : document.lines()) {
    lines.push_back({line.net_minor(), line.tax_category(), line.tax_rate_ppm()});
  }
  const absl::StatusOr<DocumentTotals> totals = TotalsOf(lines);
  if (!totals.ok()) return std::string(totals.status().message());
  if (totals->net_minor != document.net_minor()) return absl::StrCat("lines give net ", totals->net_minor);
  if (own_tax && totals->tax_minor != document.tax_minor()) return absl::StrCat("lines give tax ", totals->tax_minor);
  if (document.total_minor() != document.net_minor() + document.tax_minor()) return "total is not net + tax";
  if (document.due_minor() != (own_tax ? document.total_minor() - document.paid_minor() : 0)) {
    return "the amount due is not what is not paid";
  }
  return "";
}

struct Invoice {
  std::string row;  // as findings name it
  std::string name, currency;
  int64_t buyer = 0, period = 0;
  bool booked = false, voided = false;
  int64_t usage = 0, residue = 0, unheld = 0, commitment = 0, promotion = 0, carried = 0, rounding = 0, net = 0,
          tax = 0;
  int64_t gross = 0, credited = 0, allocated = 0, open = 0;  // as table `receivable` has it
};

std::map<int64_t, Invoice> ReadInvoices(Database& db, Findings* findings) {
  std::map<int64_t, Invoice> invoices;
  Rows rows = db.Query(
      "SELECT i.invoice_no, i.name, p.currency, i.party_no, i.period, i.booked, r.voided, i.usage_micro, "
      "i.usage_residue_pico, i.unheld_micro, i.commitment_micro, i.promotion_micro, i.carried_micro, i.rounding_micro, "
      "i.net_minor, i.tax_minor, r.gross_minor, r.credited_minor, r.allocated_minor, r.open, "
      "(SELECT count(*) FROM invoice_void v WHERE v.invoice_no = i.invoice_no), i.content, i.issued_us, "
      "i.seller_no IS p.parent_no AND i.seller_no IS (SELECT s.seller_no FROM invoice_series s WHERE s.series = "
      "i.series AND s.kind = 1), i.name IS printf('%s-%06d', i.series, i.number), i.series || '-' || i.number "
      "FROM invoice i JOIN party p USING (party_no) LEFT JOIN receivable r USING (invoice_no)");
  while (rows.Next()) {
    Invoice& invoice = invoices[rows.Int(0)];
    invoice = {.row = absl::StrCat("invoice ", rows.Text(25)),
               .name = rows.Text(1),
               .currency = rows.Text(2),
               .buyer = rows.Int(3),
               .period = rows.Int(4),
               .booked = rows.Int(5) == 1,
               .voided = rows.Int(6) == 1,
               .usage = rows.Int(7),
               .residue = rows.Int(8),
               .unheld = rows.Int(9),
               .commitment = rows.Int(10),
               .promotion = rows.Int(11),
               .carried = rows.Int(12),
               .rounding = rows.Int(13),
               .net = rows.Int(14),
               .tax = rows.Int(15),
               .gross = rows.Int(16),
               .credited = rows.Int(17),
               .allocated = rows.Int(18),
               .open = rows.Int(19)};
    const auto wrong_is = [&](std::string detail) {
      findings->Add(check::kInvoiceBooks, invoice.row, std::move(detail), invoice.buyer);
    };
    if (rows.IsNull(16)) wrong_is("is not among the receivables");
    if (invoice.voided != (rows.Int(20) == 1)) wrong_is("void or not?");
    if (rows.Int(24) == 0) wrong_is("its name is not its number");
    v1::Invoice content;
    if (!content.ParseFromString(rows.Text(21))) continue;  // CheckInvoices says so
    // Those of before invoices were booked do not say when they were issued.
    if (invoice.booked != (content.issued_us() != 0)) wrong_is("booked or not?");
    if (!invoice.booked) continue;
    if (rows.Int(23) == 0) wrong_is("its seller has not that buyer, or not that series");
    if (content.issued_us() != rows.Int(22)) wrong_is("was issued at another time");
    const std::string wrong = CheckTotals(content, /*own_tax=*/true);
    if (!wrong.empty()) wrong_is(wrong);
    if (content.number() != invoice.name || content.net_minor() != invoice.net || content.tax_minor() != invoice.tax ||
        content.total_minor() != invoice.gross) {
      wrong_is("the document and its row differ");
    }
  }
  return invoices;
}

// Rated usage of the periods that are invoiced, what was free taken off, by buyer and period. Summed here: SQLite would
// sort every rating of the books.
absl::flat_hash_map<std::pair<int64_t, int64_t>, __int128> ReadUsage(Database& db,
                                                                     const std::map<int64_t, Invoice>& invoices) {
  absl::flat_hash_map<std::pair<int64_t, int64_t>, __int128> usage;
  for (const auto& [no, invoice] : invoices) {
    if (invoice.booked) usage[std::pair(invoice.buyer, invoice.period)] = 0;
  }
  if (usage.empty()) return usage;
  Rows rows = db.Query("SELECT buyer_no, period, amount_pico FROM rating");
  while (rows.Next()) {
    const auto invoiced = usage.find(std::pair(rows.Int(0), rows.Int(1)));
    if (invoiced != usage.end()) invoiced->second += rows.Int(2);
  }
  return usage;
}

// What was moved for each invoice or credit note, by kind: from the customer, less what came back.
std::map<std::pair<int64_t, int64_t>, int64_t> ReadPostings(Database& db) {
  std::map<std::pair<int64_t, int64_t>, int64_t> postings;
  Rows rows = db.Query(
      "SELECT t.source, t.kind, sum(CASE WHEN d.type = 'customer' THEN t.amount_micro ELSE -t.amount_micro END) "
      "FROM transfer t JOIN account d ON d.account_no = t.debit_account WHERE t.kind > 3 AND t.kind BETWEEN 8 AND 12 "
      "GROUP BY t.source, t.kind");
  while (rows.Next()) postings[{rows.Int(0), rows.Int(1)}] = rows.Int(2);
  return postings;
}

void CheckPostings(Database& db, const std::map<int64_t, Invoice>& invoices, Findings* findings) {
  const auto usage = ReadUsage(db, invoices);
  auto postings = ReadPostings(db);
  const auto take = [&](int64_t source, int64_t kind) {
    auto found = postings.find({source, kind});
    if (found == postings.end()) return int64_t{0};
    const int64_t amount = found->second;
    postings.erase(found);
    return amount;
  };
  for (const auto& [no, i] : invoices) {
    if (!i.booked) continue;
    const auto wrong_is = [&, &row = i](const char* detail) {
      findings->Add(check::kInvoiceBooks, row.row, detail, row.buyer);
    };
    const int64_t unit = UnitOf(i.currency);
    const __int128 net = static_cast<__int128>(i.net) * unit, tax = static_cast<__int128>(i.tax) * unit;
    if (take(no, 8) != i.commitment || take(no, 9) != i.rounding || take(no, 10) != tax) {
      wrong_is("its postings are not what it says");
    }
    const __int128 reversed = i.voided ? i.commitment + i.rounding + tax : 0;
    if (take(no, 12) != -reversed) wrong_is("voiding did not reverse its postings");
    if (net + i.promotion + i.carried != static_cast<__int128>(i.usage) - i.unheld + i.commitment + i.rounding) {
      wrong_is("what it is made of does not come to its net");
    }
    const auto used = usage.find(std::pair(i.buyer, i.period));
    const __int128 exact = used == usage.end() ? 0 : used->second;
    if (!i.voided && exact != static_cast<__int128>(i.usage) * 1'000'000 + i.residue) {
      wrong_is("usage of its period is not what it bills");
    }
  }
  {
    Rows rows = db.Query(
        "SELECT c.note_no, c.name, c.net_minor + c.tax_minor, p.currency, i.party_no, c.carried_micro + "
        "c.promotion_micro, c.net_minor FROM credit_note c JOIN invoice i USING (invoice_no) JOIN party p USING "
        "(party_no)");
    while (rows.Next()) {
      const __int128 gross = static_cast<__int128>(rows.Int(2)) * UnitOf(rows.Text(3));
      // Of the net, what the account had already is not posted.
      const __int128 net = static_cast<__int128>(rows.Int(6)) * UnitOf(rows.Text(3));
      if (take(rows.Int(0), 11) == rows.Int(5) - gross && rows.Int(5) <= net) continue;
      findings->Add(check::kInvoiceBooks, absl::StrCat("credit_note ", rows.Text(1)), "is not what was posted",
                    rows.Int(4));
    }
  }
  for (const auto& [source, amount] : postings) {
    findings->Add(check::kInvoiceBooks, absl::StrCat("transfer of kind ", source.second),
                  absl::StrCat("is for a document ", source.first, " that is not there"));
  }
}

// Credit notes: intact, numbered without gaps, never more than what they take back.
void CheckNotes(Database& db, const std::map<int64_t, Invoice>& invoices, int64_t* count, Findings* findings) {
  std::map<int64_t, std::pair<int64_t, int64_t>> taken;  // net, tax by invoice
  std::string series;
  int64_t expected = 1;
  Rows rows = db.Query(
      "SELECT series, number, name, invoice_no, net_minor, tax_minor, content, hash FROM credit_note "
      "ORDER BY series, number");
  while (rows.Next()) {
    ++*count;
    const auto of = invoices.find(rows.Int(3));
    const auto wrong_is = [&](std::string detail) {
      findings->Add(check::kCreditNotes, absl::StrCat("credit_note ", rows.Text(2)), std::move(detail),
                    of == invoices.end() ? 0 : of->second.buyer);
    };
    if (rows.Text(0) != series) expected = 1;
    series = rows.Text(0);
    if (rows.Int(1) != expected) wrong_is(absl::StrCat("number ", expected, " of the series is missing"));
    expected = rows.Int(1) + 1;
    v1::Invoice note;
    if (Sha256(rows.Text(6)) != rows.Text(7) || !note.ParseFromString(rows.Text(6))) {
      wrong_is("is not what was issued");
      continue;
    }
    const std::string wrong = CheckTotals(note, /*own_tax=*/false);
    if (!wrong.empty()) wrong_is(wrong);
    if (note.number() != rows.Text(2) || note.net_minor() != rows.Int(4) || note.tax_minor() != rows.Int(5)) {
      wrong_is("the document and its row differ");
    }
    auto& sums = taken[rows.Int(3)];
    sums.first += rows.Int(4);
    sums.second += rows.Int(5);
  }
  for (const auto& [no, sums] : taken) {
    const auto invoice = invoices.find(no);
    if (invoice == invoices.end() || sums.first > invoice->second.net || sums.second > invoice->second.tax) {
      findings->Add(check::kCreditNotes, absl::StrCat("invoice ", no), "its credit notes come to more than it",
                    invoice == invoices.end() ? 0 : invoice->second.buyer);
    }
  }
  for (const auto& [no, i] : invoices) {
    const auto found = taken.find(no);
    const int64_t credited = found == taken.end() ? 0 : found->second.first + found->second.second;
    if (credited == i.credited) continue;
    findings->Add(check::kCreditNotes, i.row, absl::StrCat("credited ", i.credited, ", notes give ", credited),
                  i.buyer);
  }
}

void CheckAllocations(Database& db, const std::map<int64_t, Invoice>& invoices, int64_t* count, Findings* findings) {
  std::map<int64_t, __int128> of_payment, of_invoice, refunded;
  const auto wrong_is = [&](std::string row, std::string detail, int64_t party_no) {
    findings->Add(check::kAllocations, std::move(row), std::move(detail), party_no);
  };
  {
    Rows rows = db.Query(
        "SELECT a.transfer_seq, a.invoice_no, a.amount_minor, t.party_no, i.party_no, a.allocation_no FROM allocation "
        "a "
        "JOIN payment t USING (transfer_seq) JOIN invoice i USING (invoice_no) ORDER BY a.allocation_no");
    while (rows.Next()) {
      ++*count;
      const std::string row = absl::StrCat("allocation ", rows.Int(5));
      if (rows.Int(3) != rows.Int(4)) wrong_is(row, "pays another party's invoice", rows.Int(3));
      const auto invoice = invoices.find(rows.Int(1));
      if (invoice == invoices.end()) {
        wrong_is(row, "is for no invoice", rows.Int(3));
        continue;
      }
      of_payment[rows.Int(0)] += static_cast<__int128>(rows.Int(2)) * UnitOf(invoice->second.currency);
      of_invoice[rows.Int(1)] += rows.Int(2);
      if (of_payment[rows.Int(0)] < 0 || of_invoice[rows.Int(1)] < 0) {
        wrong_is(row, absl::StrCat("releases more of payment ", rows.Int(0), " than was allocated"), rows.Int(3));
      }
    }
  }
  {
    Rows rows = db.Query(
        "SELECT p.transfer_seq, p.amount_micro, p.allocated_micro, t.amount_micro, t.kind, a.party_no, p.party_no, "
        "p.refunded_micro "
        "FROM payment p LEFT JOIN transfer t ON t.seq = p.transfer_seq LEFT JOIN account a "
        "ON a.account_no = t.credit_account");
    while (rows.Next()) {
      if (rows.Int(3) != rows.Int(1) || rows.Int(4) != 1 || rows.Int(5) != rows.Int(6)) {
        wrong_is(absl::StrCat("payment ", rows.Int(0)), "is not what came in", rows.Int(6));
      }
      refunded[rows.Int(6)] += rows.Int(7);
      if (of_payment[rows.Int(0)] != rows.Int(2) || rows.Int(2) + rows.Int(7) > rows.Int(1)) {
        wrong_is(absl::StrCat("payment ", rows.Int(0)),
                 absl::StrCat("allocated ", rows.Int(2), ", its allocations give ",
                              static_cast<int64_t>(of_payment[rows.Int(0)])),
                 rows.Int(6));
      }
    }
  }
  {
    Rows rows = db.Query(
        "SELECT a.party_no, sum(t.amount_micro) FROM transfer t JOIN account a ON a.account_no = t.debit_account "
        "WHERE t.kind > 3 AND t.kind = 13 GROUP BY a.party_no");
    while (rows.Next()) refunded[rows.Int(0)] -= rows.Int(1);
  }
  for (const auto& [party, rest] : refunded) {
    if (rest != 0) wrong_is(absl::StrCat("refunds of party ", party), "are not those of its payments", party);
  }
  for (const auto& [no, i] : invoices) {
    const auto found = of_invoice.find(no);
    const __int128 allocated = found == of_invoice.end() ? 0 : found->second;
    if (allocated != i.allocated || i.allocated + i.credited > i.gross || (i.voided && i.allocated + i.credited > 0)) {
      wrong_is(i.row,
               absl::StrCat(i.allocated, " is allocated and ", i.credited, " credited of ", i.gross,
                            ", its allocations give ", static_cast<int64_t>(allocated)),
               i.buyer);
    }
    if (i.open != (!i.voided && i.allocated + i.credited < i.gross ? 1 : 0)) {
      wrong_is(i.row, "open or not?", i.buyer);
    }
  }
}

}  // namespace

void CheckInvoiceBooks(Database& db, Findings* findings) {
  for (const char* check : {check::kInvoiceBooks, check::kCreditNotes, check::kAllocations}) findings->Begin(check);
  const std::map<int64_t, Invoice> invoices = ReadInvoices(db, findings);
  CheckPostings(db, invoices, findings);
  findings->Figures(check::kInvoiceBooks, absl::StrCat(invoices.size(), " final invoices"));
  int64_t notes = 0, allocations = 0;
  CheckNotes(db, invoices, &notes, findings);
  findings->Figures(check::kCreditNotes, absl::StrCat(notes, " credit notes"));
  CheckAllocations(db, invoices, &allocations, findings);
  findings->Figures(check::kAllocations, absl::StrCat(allocations, " allocations"));
}

}  // namespace gantry::billing
