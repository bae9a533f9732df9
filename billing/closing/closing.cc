#include "billing/closing/closing.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/periods.h"
#include "billing/invoice/credit_note.h"
#include "billing/invoice/invoice.h"
#include "billing/invoice/payments.h"
#include "billing/invoice/receivables.h"
#include "billing/ledger/lots.h"
#include "billing/parties/party_tree.h"
#include "billing/people/users.h"
#include "billing/store/chain.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr size_t kReasonLimit = 140;

absl::StatusOr<v1::Closing> Read(Database& db, const PartyRow& party) {
  v1::Closing closing;
  closing.set_party_id(party.party_id.ToBytes());
  closing.set_party_name(party.name);
  closing.set_currency(party.currency);
  {
    Rows rows = db.Query(
        "SELECT leftover, requested_us, waits_for, done_us, refunded_micro, kept_micro, unpaid_micro FROM closing "
        "WHERE party_no = ?",
        party.party_no);
    if (!rows.Next()) return absl::NotFoundError(absl::StrCat("`", party.name, "` is not being closed"));
    closing.set_leftover(static_cast<v1::Leftover>(rows.Int(0)));
    closing.set_requested_us(rows.Int(1));
    closing.set_waits_for(rows.Text(2));
    closing.set_done_us(rows.Int(3));
    closing.set_refunded_micro(rows.Int(4));
    closing.set_kept_micro(rows.Int(5));
    closing.set_unpaid_micro(rows.Int(6));
  }
  {
    Rows rows = db.Query("SELECT name FROM invoice WHERE party_no = ? AND issued_us >= ? ORDER BY invoice_no",
                         party.party_no, closing.requested_us());
    while (rows.Next()) closing.add_invoices(rows.Text(0));
  }
  Rows rows = db.Query(
      "SELECT n.name FROM credit_note n JOIN invoice i USING (invoice_no) WHERE i.party_no = ? AND n.issued_us >= ? "
      "ORDER BY n.note_no",
      party.party_no, closing.requested_us());
  while (rows.Next()) closing.add_credit_notes(rows.Text(0));
  return closing;
}

int64_t Count(Rows rows) {
  return rows.Next() ? rows.Int(0) : 0;
}

// What has to happen before the second step; empty when nothing has.
std::string WaitsFor(Database& db, const PartyRow& party) {
  const Funds funds = ReadFunds(db, party);
  if (funds.held_micro != 0) {
    return absl::StrCat("gateways to give back ", funds.held_micro, " millionths of ", party.currency);
  }
  // All its money is spent, and records that cost nothing, or what allowances pay, may still lie in a spool: gateways
  // close a slice when billing has every record that names it.
  const int64_t open =
      Count(db.Query("SELECT (SELECT count(*) FROM slice WHERE open = 1 AND party_no = ?1) + (SELECT count(*) FROM "
                     "hold WHERE state = 1 "
                     "AND party_no = ?1)",
                     party.party_no));
  if (open > 0) return absl::StrCat("gateways to hand in the records of ", open, " slices and holds");
  const int64_t waiting = Count(db.Query(
      "SELECT count(*) FROM unmatched m JOIN usage_event u USING (request_id) JOIN rating r ON r.event_seq = u.seq "
      "WHERE m.state = 'waiting' AND r.buyer_no = ?",
      party.party_no));
  if (waiting > 0) return absl::StrCat(waiting, " requests to be counted a second time");
  const int64_t aside = Count(db.Query("SELECT count(*) FROM parked_record WHERE party_no = ?", party.party_no));
  if (aside > 0) return absl::StrCat(aside, " records of usage that are kept aside to be booked");
  return "";
}

// Invoices of all months that have none: the current one too, and one that has not begun when corrections stand in it.
absl::Status InvoiceTheRest(Database& db, const PartyRow& party, const absl::Status& clocks, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(clocks);
  GANTRY_RETURN_IF_ERROR(PeriodAt(db, party, now_us).status());
  std::vector<int64_t> periods;
  {
    Rows rows =
        db.Query("SELECT period FROM billing_period WHERE party_no = ? AND closed = 0 ORDER BY period", party.party_no);
    while (rows.Next()) periods.push_back(rows.Int(0));
  }
  for (const int64_t period : periods) {
    v1::GetInvoiceRequest get;
    get.set_party_name(party.name);
    get.set_period(FormatPeriod(period));
    GANTRY_ASSIGN_OR_RETURN(const v1::Invoice draft, GetInvoice(db, get));
    if (draft.lines().empty()) continue;
    v1::FinalizeInvoiceRequest finalize;
    finalize.set_party_name(party.name);
    finalize.set_period(get.period());
    GANTRY_RETURN_IF_ERROR(FinalizeInvoice(db, finalize, now_us).status());
  }
  return absl::OkStatus();
}

int64_t BoughtAndNotUsed(Database& db, const PartyRow& party) {
  return Count(
      db.Query("SELECT coalesce(sum(l.left_micro), 0) FROM credit_lot l JOIN account a USING (account_no) "
               "WHERE a.party_no = ? AND a.type = 'customer' AND l.kind = 2 AND l.left_micro > 0",
               party.party_no));
}

void Erase(Database& db, const PartyRow& party, int64_t now_us) {
  EraseUsers(db, party.party_no, now_us);
  db.Execute("UPDATE api_key SET label = '', cidrs = '' WHERE party_no = ?", party.party_no);
  db.Execute("DELETE FROM outbox WHERE party_id = ?", party.party_id);
  db.Execute("DELETE FROM outbox_endpoint WHERE party_id = ?", party.party_id);
  db.Execute("DELETE FROM billing_profile WHERE party_no = ?", party.party_no);
  db.Execute("UPDATE party SET name = ?, legal_name = '' WHERE party_no = ?",
             absl::StrCat("closed-", party.party_id.ToHex().substr(0, 16)), party.party_no);
}

// OK when done; else what it waits for is noted.
absl::Status Finish(Database& db, const PartyRow& party, v1::Leftover leftover, const absl::Status& clocks,
                    int64_t now_us) {
  const std::string waits_for = WaitsFor(db, party);
  if (!waits_for.empty()) return absl::FailedPreconditionError(waits_for);
  if (absl::Status invoiced = InvoiceTheRest(db, party, clocks, now_us); !invoiced.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("its last invoice: ", invoiced.message()));
  }
  GANTRY_RETURN_IF_ERROR(CreditLeftOver(db, party, now_us).status());
  AllocateOldestFirst(db, party, now_us, /*held_back=*/true);
  const Funds funds = ReadFunds(db, party);
  if (funds.posted_micro < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("it to pay ", -funds.posted_micro, " millionths of ", party.currency));
  }
  GANTRY_RETURN_IF_ERROR(PayWithParts(db, party, now_us));
  const int64_t unpaid = BoughtAndNotUsed(db, party) - RefundableMicro(db, party);
  const int64_t refunded = leftover == v1::LEFTOVER_REFUND ? RefundAll(db, party, "account closed", now_us) : 0;
  const int64_t kept = ForfeitLots(db, party, now_us);
  Erase(db, party, now_us);
  db.Execute(
      "UPDATE closing SET waits_for = '', done_us = ?, refunded_micro = ?, kept_micro = ?, unpaid_micro = ? "
      "WHERE party_no = ?",
      now_us, refunded, kept, unpaid, party.party_no);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::Closing> CloseParty(Database& db, const v1::ClosePartyRequest& request, int64_t now_us) {
  if (request.leftover() != v1::LEFTOVER_REFUND && request.leftover() != v1::LEFTOVER_KEEP) {
    return absl::InvalidArgumentError("leftover: expected refund or keep");
  }
  if (request.reason().empty() || request.reason().size() > kReasonLimit) {
    return absl::InvalidArgumentError(absl::StrCat("reason: expected 1..", kReasonLimit, " bytes"));
  }
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
  if (party.depth == 0) return absl::FailedPreconditionError("the house cannot be closed");
  if (absl::StatusOr<v1::Closing> known = Read(db, party); known.ok()) return known;
  const int64_t customers =
      Count(db.Query("SELECT count(*) FROM party p WHERE p.parent_no = ? AND NOT EXISTS (SELECT 1 FROM closing c "
                     "WHERE c.party_no = p.party_no AND c.done_us > 0)",
                     party.party_no));
  if (customers > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(customers, " parties buy from `", party.name, "`; close them first"));
  }
  v1::SetPartyStatusRequest status;
  status.set_party_id(party.party_id.ToBytes());
  status.set_status(v1::PARTY_STATUS_CLOSED);
  GANTRY_RETURN_IF_ERROR(SetPartyStatus(db, status).status());
  db.Execute("UPDATE api_key SET revoked_us = ? WHERE party_no = ? AND revoked_us = 0", now_us, party.party_no);
  db.Execute("INSERT INTO closing (party_no, leftover, requested_us, waits_for, name_hash) VALUES (?, ?, ?, ?, ?)",
             party.party_no, static_cast<int64_t>(request.leftover()), now_us, "what runs to end",
             Blob{Sha256(party.name)});
  return Read(db, party);
}

absl::StatusOr<v1::Closing> GetClosing(Database& db, const v1::GetClosingRequest& request) {
  absl::StatusOr<PartyRow> party = PartyByName(db, request.party_name());
  if (!party.ok()) {
    // By the name that it had.
    const int64_t party_no =
        Count(db.Query("SELECT party_no FROM closing WHERE name_hash = ? ORDER BY requested_us DESC LIMIT 1",
                       Blob{Sha256(request.party_name())}));
    if (party_no == 0) return party.status();
    party = PartyByNo(db, party_no);
    if (!party.ok()) return party.status();
  }
  return Read(db, *party);
}

bool ClosingsAreOpen(Database& db) {
  return Count(db.Query("SELECT count(*) FROM closing WHERE done_us = 0")) > 0;
}

absl::Status FinishClosings(Database& db, const absl::Status& clocks, int64_t now_us) {
  std::vector<std::pair<int64_t, v1::Leftover>> open;
  {
    Rows rows = db.Query("SELECT party_no, leftover FROM closing WHERE done_us = 0");
    while (rows.Next()) open.emplace_back(rows.Int(0), static_cast<v1::Leftover>(rows.Int(1)));
  }
  for (const auto& [party_no, leftover] : open) {
    GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByNo(db, party_no));
    db.Script("SAVEPOINT closing");
    const absl::Status finished = Finish(db, party, leftover, clocks, now_us);
    if (finished.ok()) {
      db.Script("RELEASE closing");
      continue;
    }
    db.Script("ROLLBACK TO closing");
    db.Script("RELEASE closing");
    db.Execute("UPDATE closing SET waits_for = ? WHERE party_no = ? AND waits_for <> ?", finished.message(), party_no,
               finished.message());
  }
  return absl::OkStatus();
}

std::vector<CreditOut> CreditOfClosing(Database& db) {
  std::vector<CreditOut> out;
  {
    Rows rows = db.Query(
        "SELECT c.party_no, a.held_micro FROM closing c JOIN account a ON a.party_no = c.party_no AND a.type = "
        "'customer' WHERE c.done_us = 0 AND (a.held_micro > 0 OR EXISTS (SELECT 1 FROM slice s WHERE s.open = 1 AND "
        "s.party_no = c.party_no))");
    while (rows.Next()) {
      out.push_back({{.kind = CreditScope::kTenant, .no = rows.Int(0), .held_micro = rows.Int(1)}, {}});
    }
  }
  for (CreditOut& credit : out) credit.lenders = LendersOf(db, credit.scope);
  return out;
}

}  // namespace gantry::billing
