#include "billing/invoice/statement.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/catalog/periods.h"
#include "billing/invoice/currency.h"
#include "billing/invoice/dates.h"
#include "billing/invoice/profile.h"
#include "billing/invoice/receivables.h"
#include "billing/ledger/ledger.h"
#include "billing/parties/party_tree.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

v1::StatementEntry Entry(int64_t at_us, const char* kind, std::string number, std::string text, int64_t amount_micro) {
  v1::StatementEntry entry;
  entry.set_at_us(at_us);
  entry.set_kind(kind);
  entry.set_number(std::move(number));
  entry.set_text(std::move(text));
  entry.set_amount_micro(amount_micro);
  return entry;
}

// Invoices, what was voided of them, and credit notes.
void AddDocuments(Database& db, const PartyRow& party, std::vector<v1::StatementEntry>* entries) {
  const int64_t unit = MicroPerMinor(static_cast<uint32_t>(MinorDigits(party.currency)));
  {
    Rows rows = db.Query(
        "SELECT i.issued_us, i.name, i.period, r.gross_minor, r.due_day, coalesce(v.voided_us, 0), "
        "coalesce(v.reason, '') FROM invoice i JOIN receivable r USING (invoice_no) LEFT JOIN invoice_void v "
        "USING (invoice_no) WHERE i.party_no = ? AND i.booked = 1",
        party.party_no);
    while (rows.Next()) {
      entries->push_back(Entry(rows.Int(0), "invoice", rows.Text(1),
                               absl::StrCat("period ", FormatPeriod(rows.Int(2)), ", due ", FormatDay(rows.Int(4))),
                               rows.Int(3) * unit));
      if (rows.Int(5) == 0) continue;
      entries->push_back(Entry(rows.Int(5), "void", rows.Text(1), rows.Text(6), -rows.Int(3) * unit));
    }
  }
  Rows rows = db.Query(
      "SELECT c.issued_us, c.name, i.name, c.net_minor + c.tax_minor FROM credit_note c JOIN invoice i USING "
      "(invoice_no) "
      "WHERE i.party_no = ?",
      party.party_no);
  while (rows.Next()) {
    entries->push_back(Entry(rows.Int(0), "credit_note", rows.Text(1), absl::StrCat("of invoice ", rows.Text(2)),
                             -rows.Int(3) * unit));
  }
}

// What came in, what of it expired or was paid back, and what was left at the end.
void AddPayments(Database& db, int64_t party_no, int64_t account_no, std::vector<v1::StatementEntry>* entries) {
  {
    Rows rows = db.Query(
        "SELECT t.booked_us, t.seq, t.amount_micro, coalesce(p.method, 'top-up'), t.reference, p.received_day "
        "FROM transfer t LEFT JOIN payment p ON p.transfer_seq = t.seq WHERE t.credit_account = ? AND t.kind = 1 "
        "AND t.kind <= 2",
        account_no);
    while (rows.Next()) {
      std::string text = rows.Text(3);
      if (!rows.IsNull(5) && text != "top-up") absl::StrAppend(&text, ", received ", FormatDay(rows.Int(5)));
      if (!rows.Text(4).empty()) absl::StrAppend(&text, ", ", rows.Text(4));
      entries->push_back(
          Entry(rows.Int(0), "payment", absl::StrCat("payment ", rows.Int(1)), std::move(text), -rows.Int(2)));
    }
  }
  {
    Rows rows = db.Query(
        "SELECT t.booked_us, t.amount_micro, t.reference FROM transfer t WHERE t.debit_account = ? AND t.kind > 3 "
        "AND t.kind = 13",
        account_no);
    while (rows.Next()) entries->push_back(Entry(rows.Int(0), "refund", "", rows.Text(2), rows.Int(1)));
  }
  int64_t closed_us = 0, unpaid_micro = 0;
  {
    Rows rows = db.Query("SELECT done_us, unpaid_micro FROM closing WHERE party_no = ? AND done_us > 0", party_no);
    if (rows.Next()) {
      closed_us = rows.Int(0);
      unpaid_micro = rows.Int(1);
    }
  }
  if (unpaid_micro > 0) {
    entries->push_back(Entry(closed_us, "unpaid", "", "credit that came back beyond what was paid", -unpaid_micro));
  }
  Rows rows = db.Query(
      "SELECT t.booked_us, t.source, t.amount_micro FROM transfer t JOIN credit_lot l ON l.lot_no = t.source "
      "WHERE t.debit_account = ? AND t.kind > 3 AND t.kind = 7 AND l.kind = 2",
      account_no);
  while (rows.Next()) {
    const bool kept = rows.Int(0) == closed_us;
    entries->push_back(Entry(rows.Int(0), kept ? "kept" : "expiry", absl::StrCat("credit lot ", rows.Int(1)),
                             kept ? "credit that was left when the account ended" : "credit that expired unused",
                             rows.Int(2)));
  }
}

// [from, to) in microseconds of the asked days.
absl::Status SetRange(const v1::GetStatementRequest& request, const PartyRow& party, int64_t now_us, int64_t* from_us,
                      int64_t* to_us, v1::Statement* statement) {
  int64_t from = DayAt(party.created_us, party.time_zone), to = DayAt(now_us, party.time_zone);
  if (!request.from().empty()) {
    GANTRY_ASSIGN_OR_RETURN(from, ParseDay(request.from(), "from"));
  }
  if (!request.to().empty()) {
    GANTRY_ASSIGN_OR_RETURN(to, ParseDay(request.to(), "to"));
  }
  if (to < from) {
    return absl::InvalidArgumentError(
        absl::StrCat("to: expected a day not before ", FormatDay(from), ", found ", FormatDay(to)));
  }
  *from_us = StartOfDay(from, party.time_zone);
  *to_us = StartOfDay(to + 1, party.time_zone);
  statement->set_from(FormatDay(from));
  statement->set_to(FormatDay(to));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::Statement> GetStatement(Database& db, const v1::GetStatementRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
  if (party.depth == 0) return absl::InvalidArgumentError("party_name: the house buys from nobody");
  v1::Statement statement;
  int64_t from_us = 0, to_us = 0;
  GANTRY_RETURN_IF_ERROR(SetRange(request, party, now_us, &from_us, &to_us, &statement));
  GANTRY_ASSIGN_OR_RETURN(const PartyRow seller, PartyByNo(db, party.parent_no));
  GANTRY_ASSIGN_OR_RETURN(const v1::BillingProfile sells, ProfileOf(db, seller));
  GANTRY_ASSIGN_OR_RETURN(const v1::BillingProfile buys, ProfileOf(db, party));
  statement.set_party_name(party.name);
  statement.set_currency(party.currency);
  statement.set_minor_digits(static_cast<uint32_t>(MinorDigits(party.currency)));
  statement.set_time_zone(party.time_zone);
  *statement.mutable_seller() = PartyOnPaper(sells);
  *statement.mutable_buyer() = PartyOnPaper(buys);

  std::vector<v1::StatementEntry> entries;
  AddDocuments(db, party, &entries);
  AddPayments(db, party.party_no, ReadFunds(db, party).account_no, &entries);
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.at_us() < b.at_us(); });
  __int128 balance = 0;
  for (v1::StatementEntry& entry : entries) {
    if (entry.at_us() >= to_us) break;
    balance += entry.amount_micro();
    if (balance > INT64_MAX || balance < -INT64_MAX) return absl::OutOfRangeError("the balance is too large");
    if (entry.at_us() < from_us) {
      statement.set_opening_micro(static_cast<int64_t>(balance));
      continue;
    }
    if (static_cast<size_t>(statement.entries_size()) == kStatementEntriesMax) {
      return absl::OutOfRangeError(
          absl::StrCat("the statement has more than ", kStatementEntriesMax, " entries; ask for less time"));
    }
    entry.set_day(FormatDay(DayAt(entry.at_us(), party.time_zone)));
    entry.set_balance_micro(static_cast<int64_t>(balance));
    *statement.add_entries() = std::move(entry);
  }
  statement.set_closing_micro(static_cast<int64_t>(balance));
  int64_t open = 0;
  for (const OpenInvoice& invoice : OpenInvoicesOf(db, party)) open += invoice.open_minor;
  statement.set_open_minor(open);
  statement.set_unallocated_micro(UnallocatedMicro(db, party));
  return statement;
}

}  // namespace gantry::billing
