#include "billing/invoice/receivables.h"

#include <algorithm>

#include "billing/invoice/currency.h"
#include "billing/invoice/dates.h"
#include "billing/ledger/ledger.h"
#include "billing/ledger/lots.h"
#include "billing/parties/parking.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

int64_t OpenMinor(Database& db, const PartyRow& party) {
  Rows rows = db.Query(
      "SELECT coalesce(sum(gross_minor - credited_minor - allocated_minor), 0) FROM receivable WHERE party_no = ? "
      "AND open = 1",
      party.party_no);
  return rows.Next() ? rows.Int(0) : 0;
}

void AddAllocation(Database& db, int64_t transfer_seq, int64_t invoice_no, int64_t amount_minor,
                   int64_t micro_per_minor, int64_t now_us) {
  db.Execute("INSERT INTO allocation (transfer_seq, invoice_no, amount_minor, allocated_us) VALUES (?, ?, ?, ?)",
             transfer_seq, invoice_no, amount_minor, now_us);
  db.Execute("UPDATE payment SET allocated_micro = allocated_micro + ? WHERE transfer_seq = ?",
             amount_minor * micro_per_minor, transfer_seq);
  db.Execute(
      "UPDATE receivable SET allocated_minor = allocated_minor + ?1, "
      "open = (credited_minor + allocated_minor + ?1 < gross_minor) WHERE invoice_no = ?2",
      amount_minor, invoice_no);
}

// Until nothing is left. How much.
int64_t PayInOrder(Database& db, const PartyRow& party, const std::vector<OpenInvoice>& invoices, int64_t now_us,
                   bool held_back = false) {
  int64_t allocated = 0;
  for (const OpenInvoice& open : invoices) {
    const std::vector<Share> shares = PlanShares(db, party, {.wanted_minor = open.open_minor, .held_back = held_back});
    if (shares.empty()) break;
    Allocate(db, party, open.invoice_no, shares, now_us);
    for (const Share& share : shares) allocated += share.amount_minor;
  }
  return allocated;
}

// The open invoices that nobody has taken a payment from.
std::vector<OpenInvoice> NotReleasedOf(Database& db, const PartyRow& party) {
  std::vector<OpenInvoice> open = OpenInvoicesOf(db, party);
  std::erase_if(open, [&](const OpenInvoice& invoice) {
    return db.Query("SELECT 1 FROM allocation WHERE invoice_no = ? AND amount_minor < 0 LIMIT 1", invoice.invoice_no)
        .Next();
  });
  return open;
}

}  // namespace

std::vector<PaymentLeft> PaymentsLeft(Database& db, const PartyRow& party) {
  std::vector<PaymentLeft> payments;
  Rows rows = db.Query(
      "SELECT t.seq, t.amount_micro - coalesce(p.allocated_micro + p.refunded_micro, 0), coalesce(p.held_back, 0) "
      "FROM account a JOIN transfer t ON t.credit_account = a.account_no LEFT JOIN payment p ON p.transfer_seq = t.seq "
      "WHERE a.party_no = ? AND a.type = 'customer' AND a.currency = ? AND t.kind = 1 AND t.kind <= 2 "
      "AND (p.transfer_seq IS NULL OR p.allocated_micro + p.refunded_micro < p.amount_micro) ORDER BY t.seq",
      party.party_no, party.currency);
  while (rows.Next()) payments.push_back({rows.Int(0), rows.Int(1), rows.Int(2) == 1});
  return payments;
}

void KnowPayment(Database& db, const PartyRow& party, int64_t transfer_seq) {
  int64_t amount_micro = 0, booked_us = 0;
  {
    Rows rows = db.Query("SELECT amount_micro, booked_us FROM transfer WHERE seq = ?", transfer_seq);
    if (rows.Next()) {
      amount_micro = rows.Int(0);
      booked_us = rows.Int(1);
    }
  }
  db.Execute(
      "INSERT INTO payment (transfer_seq, party_no, amount_micro, method, received_day) VALUES (?, ?, ?, 'top-up', ?) "
      "ON CONFLICT (transfer_seq) DO NOTHING",
      transfer_seq, party.party_no, amount_micro, DayAt(booked_us, party.time_zone));
}

std::vector<OpenInvoice> OpenInvoicesOf(Database& db, const PartyRow& party) {
  std::vector<OpenInvoice> open;
  Rows rows = db.Query(
      "SELECT r.invoice_no, i.name, r.gross_minor - r.credited_minor - r.allocated_minor FROM receivable r "
      "JOIN invoice i USING (invoice_no) WHERE r.party_no = ? AND r.open = 1 ORDER BY r.invoice_no",
      party.party_no);
  while (rows.Next()) open.push_back({rows.Int(0), rows.Text(1), rows.Int(2)});
  return open;
}

int64_t UnallocatedMicro(Database& db, const PartyRow& party) {
  int64_t left = 0;
  for (const PaymentLeft& payment : PaymentsLeft(db, party)) left += payment.left_micro;
  const int64_t account_no = ReadFunds(db, party).account_no;
  if (account_no != 0) left -= LotUseOf(db, account_no, LotKind::kBought).expired_micro;
  return std::max<int64_t>(left, 0);
}

std::vector<Share> PlanShares(Database& db, const PartyRow& party, const ShareLimits& limits) {
  const int64_t micro_per_minor = MicroPerMinor(static_cast<uint32_t>(MinorDigits(party.currency)));
  const __int128 free_micro = static_cast<__int128>(ReadFunds(db, party).available_micro) +
                              (static_cast<__int128>(OpenMinor(db, party)) + limits.new_open_minor) * micro_per_minor;
  const __int128 bound = std::min<__int128>(free_micro, UnallocatedMicro(db, party)) / micro_per_minor;
  int64_t wanted = static_cast<int64_t>(std::clamp<__int128>(bound, 0, std::max<int64_t>(limits.wanted_minor, 0)));
  std::vector<Share> shares;
  for (const PaymentLeft& payment : PaymentsLeft(db, party)) {
    if (wanted == 0) break;
    if (limits.payment == 0 ? payment.held_back && !limits.held_back : payment.transfer_seq != limits.payment) continue;
    const int64_t part = std::min(wanted, payment.left_micro / micro_per_minor);
    if (part == 0) continue;
    shares.push_back({payment.transfer_seq, part});
    wanted -= part;
  }
  return shares;
}

void Allocate(Database& db, const PartyRow& party, int64_t invoice_no, const std::vector<Share>& shares,
              int64_t now_us) {
  const int64_t micro_per_minor = MicroPerMinor(static_cast<uint32_t>(MinorDigits(party.currency)));
  for (const Share& share : shares) {
    KnowPayment(db, party, share.transfer_seq);
    AddAllocation(db, share.transfer_seq, invoice_no, share.amount_minor, micro_per_minor, now_us);
  }
}

int64_t AllocateOldestFirst(Database& db, const PartyRow& party, int64_t now_us, bool held_back) {
  return PayInOrder(db, party, OpenInvoicesOf(db, party), now_us, held_back);
}

std::vector<int64_t> BuyersWhoCanPay(Database& db, int limit) {
  std::vector<int64_t> candidates, buyers;
  {
    Rows rows = db.Query(
        "SELECT r.party_no FROM (SELECT DISTINCT party_no FROM receivable INDEXED BY receivable_open WHERE open = 1) r "
        "JOIN party b USING (party_no) WHERE EXISTS (SELECT 1 FROM account a JOIN transfer t ON t.credit_account = "
        "a.account_no LEFT JOIN payment p ON p.transfer_seq = t.seq WHERE a.party_no = b.party_no AND a.type = "
        "'customer' AND a.currency = b.currency AND t.kind = 1 AND t.kind <= 2 AND (p.transfer_seq IS NULL OR "
        "(p.held_back = 0 AND p.allocated_micro + p.refunded_micro < p.amount_micro)))");
    while (rows.Next()) candidates.push_back(rows.Int(0));
  }
  for (const int64_t party_no : candidates) {
    if (static_cast<int>(buyers.size()) == limit) break;
    const absl::StatusOr<PartyRow> party = PartyByNo(db, party_no);
    if (!party.ok() || !CheckNotParked({*party}).ok()) continue;
    const std::vector<OpenInvoice> open = NotReleasedOf(db, *party);
    if (!open.empty() && !PlanShares(db, *party, {.wanted_minor = open[0].open_minor}).empty()) {
      buyers.push_back(party_no);
    }
  }
  return buyers;
}

absl::StatusOr<int64_t> PayFromFreedMoney(Database& db, const std::vector<int64_t>& party_nos, int64_t now_us) {
  int64_t allocated = 0;
  for (const int64_t party_no : party_nos) {
    GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByNo(db, party_no));
    if (!CheckNotParked({party}).ok()) continue;
    allocated += PayInOrder(db, party, NotReleasedOf(db, party), now_us);
  }
  return allocated;
}

int64_t Release(Database& db, int64_t invoice_no, int64_t amount_minor, int64_t payment, int64_t now_us) {
  std::vector<Share> shares;
  std::string currency;
  {
    Rows rows = db.Query(
        "SELECT a.transfer_seq, sum(a.amount_minor), p.currency FROM allocation a JOIN payment y USING (transfer_seq) "
        "JOIN party p ON p.party_no = y.party_no WHERE a.invoice_no = ? GROUP BY a.transfer_seq "
        "ORDER BY max(a.allocation_no) DESC",
        invoice_no);
    while (rows.Next()) {
      if (payment == 0 || payment == rows.Int(0)) shares.push_back({rows.Int(0), rows.Int(1)});
      currency = rows.Text(2);
    }
  }
  int64_t released = 0;
  for (const Share& share : shares) {
    const int64_t part = std::min(share.amount_minor, amount_minor - released);
    if (part <= 0) continue;
    AddAllocation(db, share.transfer_seq, invoice_no, -part,
                  MicroPerMinor(static_cast<uint32_t>(MinorDigits(currency))), now_us);
    released += part;
  }
  return released;
}

void OpenReceivable(Database& db, const PartyRow& party, int64_t invoice_no, int64_t period, int64_t gross_minor,
                    int64_t due_day) {
  db.Execute(
      "INSERT INTO receivable (invoice_no, party_no, period, gross_minor, due_day, open) VALUES (?, ?, ?, ?, ?, ?)",
      invoice_no, party.party_no, period, gross_minor, due_day, gross_minor > 0 ? 1 : 0);
}

void AddCredited(Database& db, int64_t invoice_no, int64_t gross_minor) {
  db.Execute(
      "UPDATE receivable SET credited_minor = credited_minor + ?1, "
      "open = (credited_minor + ?1 + allocated_minor < gross_minor) WHERE invoice_no = ?2",
      gross_minor, invoice_no);
}

void CloseVoid(Database& db, int64_t invoice_no) {
  db.Execute("UPDATE receivable SET voided = 1, open = 0 WHERE invoice_no = ?", invoice_no);
}

std::vector<InvoiceFact> InvoiceFacts(Database& db, int64_t now_us) {
  std::vector<InvoiceFact> facts;
  Rows rows = db.Query(
      "SELECT b.party_id, s.party_id, b.name, s.name, i.name, b.currency, r.gross_minor, "
      "r.gross_minor - r.credited_minor - r.allocated_minor, i.issued_us, r.due_day, s.time_zone "
      "FROM receivable r INDEXED BY receivable_open "
      "JOIN invoice i USING (invoice_no) JOIN party b ON b.party_no = i.party_no JOIN party s ON s.party_no = "
      "i.seller_no "
      "WHERE r.open = 1 ORDER BY r.invoice_no");
  while (rows.Next()) {
    InvoiceFact fact{.buyer_id = rows.Id(0),
                     .seller_id = rows.Id(1),
                     .buyer_name = rows.Text(2),
                     .seller_name = rows.Text(3),
                     .number = rows.Text(4),
                     .currency = rows.Text(5),
                     .minor_digits = static_cast<uint32_t>(MinorDigits(rows.Text(5))),
                     .gross_minor = rows.Int(6),
                     .open_minor = rows.Int(7),
                     .issued_us = rows.Int(8),
                     .due_day = rows.Int(9)};
    fact.days_overdue = std::max<int64_t>(0, DayAt(now_us, rows.Text(10)) - fact.due_day);
    facts.push_back(std::move(fact));
  }
  return facts;
}

}  // namespace gantry::billing
