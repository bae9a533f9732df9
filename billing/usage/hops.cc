#include "billing/usage/hops.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "billing/ledger/credit_hops.h"
#include "billing/ledger/ledger.h"
#include "billing/ledger/lot_use.h"
#include "billing/ledger/lots.h"
#include "billing/usage/rollup.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {
namespace {

constexpr int64_t kClockSetBackUs = 86'400'000'000;

absl::Status RateHop(UsageBook& book, const HopInput& input, Hop* hop) {
  const RollupKey key{hop->buyer.party_no, hop->period, hop->terms->version_no};
  for (const UsagePart& part : input.parts) {
    const auto units_before = [&](int line) {
      int64_t units = book.rollups().UnitsOfLine(key, line);
      for (const Charge& charge : hop->charges) units += charge.line == line ? charge.quantity : 0;
      return units;
    };
    GANTRY_ASSIGN_OR_RETURN(const std::vector<Charge> charges,
                            Rate(hop->terms->lines, input.model, part.context, part.quantities, units_before));
    hop->charges.insert(hop->charges.end(), charges.begin(), charges.end());
  }
  __int128 gross = 0;
  for (const Charge& charge : hop->charges) gross += charge.amount_pico;
  if (gross > INT64_MAX || gross < -INT64_MAX) {
    return absl::OutOfRangeError("the amount of one request exceeds 9.2 million units");
  }
  hop->net_pico = static_cast<int64_t>(gross);
  const int64_t allowance = hop->terms->allowance_micro;
  if (allowance > 0) hop->net_pico = BeyondAllowance(book.rollups().GrossOfVersion(key), hop->net_pico, allowance);
  return absl::OkStatus();
}

// The events of a request that a correction may give back, but for itself. A loss that only a worker counted was never
// the customer's.
std::vector<int64_t> EventsBefore(Database& db, const Booking& booking) {
  std::vector<int64_t> seqs;
  Rows rows = db.Query("SELECT seq FROM usage_event WHERE request_id = ? AND seq < ? AND outcome <> ? ORDER BY seq",
                       booking.request_id, booking.event_seq, static_cast<int64_t>(v1::USAGE_OUTCOME_UNBILLED));
  while (rows.Next()) seqs.push_back(rows.Int(0));
  return seqs;
}

// The first event that was received at a time or later. The clock may have been set back since: by a day at most.
int64_t FirstEventFrom(Database& db, int64_t time_us) {
  int64_t low = 1, high = 1;
  {
    Rows rows = db.Query("SELECT coalesce(max(seq), 0) + 1 FROM usage_event");
    if (rows.Next()) high = rows.Int(0);
  }
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    Rows rows = db.Query("SELECT received_us FROM usage_event WHERE seq = ?", middle);
    if (!rows.Next()) break;
    const bool before = rows.Int(0) < time_us - kClockSetBackUs;
    low = before ? middle + 1 : low;
    high = before ? high : middle;
  }
  return low;
}

// What promotional lots have paid for a buyer's month from its first event on, less what tiers have taken back of it.
// What corrections of other months gave back in this one does not count.
std::vector<LotShare> GivenInMonth(UsageBook& book, const Hop& hop, const Account& customer, int64_t first_event) {
  Database& db = book.db();
  book.journal().ForgetLot(customer);  // what lots have left is read
  std::vector<LotShare> given;
  {
    // Most accounts have none, and read no month.
    Rows rows =
        db.Query("SELECT 1 FROM credit_lot WHERE account_no = ? AND kind = 1 AND left_micro < amount_micro LIMIT 1",
                 customer.account_no);
    if (!rows.Next()) return given;
  }
  Rows rows = db.Query(
      "SELECT u.lot_no, sum(u.micro) FROM lot_use u JOIN credit_lot l USING (lot_no) WHERE u.event_seq >= ?1 AND "
      "u.account_no = ?2 AND l.kind = 1 AND EXISTS (SELECT 1 FROM rating r WHERE r.event_seq = u.event_seq AND "
      "r.buyer_no = ?3 AND r.period = ?4) AND (u.micro > 0 OR (SELECT outcome FROM usage_event e WHERE e.seq = "
      "u.event_seq) <> ?5) GROUP BY u.lot_no HAVING sum(u.micro) > 0 "
      "ORDER BY l.priority DESC, l.expires_us DESC, u.lot_no DESC",
      first_event, customer.account_no, hop.buyer.party_no, hop.period,
      static_cast<int64_t>(v1::USAGE_OUTCOME_CORRECTION));
  while (rows.Next()) given.push_back({rows.Int(0), rows.Int(1)});
  return given;
}

// What a buyer was charged for events of a request, rounded up. Below zero where volume tiers took back of others.
int64_t RatedMicro(Database& db, const Hop& hop, const std::vector<int64_t>& events) {
  __int128 pico = 0;
  for (const int64_t seq : events) {
    Rows rows =
        db.Query("SELECT amount_pico FROM rating WHERE event_seq = ? AND buyer_no = ?", seq, hop.buyer.party_no);
    if (rows.Next()) pico += rows.Int(0);
  }
  return static_cast<int64_t>(pico > 0 ? (pico + 999'999) / 1'000'000 : pico / 1'000'000);
}

// Gives back what earlier events had cost: to the house what the house has paid for the request, the rest to the
// customer, as the kind of credit that had paid it. Returns the rest.
int64_t GiveBack(UsageBook& book, const Booking& booking, const Hop& hop, const Account& customer,
                 const Account& revenue, int64_t micro) {
  const int64_t all = micro;
  Journal& journal = book.journal();
  Transfer transfer{.debit_account = revenue.account_no,
                    .kind = TransferKind::kUsageReturned,
                    .source = booking.event_seq,
                    .booked_us = booking.now_us};
  absl::StatusOr<PartyRow> house = book.House();
  if (!booking.request_id.IsZero() && house.ok()) {
    const Account& unheld = journal.Open(house->party_no, "late_unheld", hop.terms->currency);
    int64_t houses = 0;
    {
      Rows rows = book.db().Query(
          "SELECT coalesce(sum(iif(t.debit_account = ?1, t.amount_micro, -t.amount_micro)), 0) FROM usage_event u "
          "JOIN transfer t ON t.source = u.seq WHERE u.request_id = ?3 AND t.kind > 3 AND "
          "(t.debit_account, t.credit_account) IN (VALUES (?1, ?2), (?2, ?1))",
          unheld.account_no, revenue.account_no, booking.request_id);
      if (rows.Next()) houses = std::clamp<int64_t>(rows.Int(0), 0, micro);
    }
    if (houses > 0) {
      transfer.credit_account = unheld.account_no;
      transfer.amount_micro = houses;
      journal.Post(transfer);
      micro -= houses;
    }
  }
  if (micro == 0) return 0;
  transfer.credit_account = customer.account_no;
  transfer.amount_micro = micro;
  const int64_t balance_before = customer.balance_micro();
  const int64_t seq = journal.Post(transfer);
  if (booking.request_id.IsZero()) {
    const int64_t first = FirstEventFrom(book.db(), hop.period_from_us);
    ReturnToLots(journal, customer,
                 ReturnedTier{.given = GivenInMonth(book, hop, customer, first),
                              .month_event_seq = first,
                              .event_seq = booking.event_seq,
                              .micro = micro,
                              .transfer_seq = seq,
                              .balance_before_micro = balance_before,
                              .now_us = booking.now_us});
    return micro;
  }
  const std::vector<int64_t> events = EventsBefore(book.db(), booking);
  const int64_t beyond = std::clamp<int64_t>(all - RatedMicro(book.db(), hop, events), 0, micro);
  std::vector<LotShare> given;
  if (beyond > 0) given = GivenInMonth(book, hop, customer, FirstEventFrom(book.db(), hop.period_from_us));
  ReturnToLots(journal, customer,
               ReturnedUsage{.event_seqs = events,
                             .beyond_micro = beyond,
                             .given = std::move(given),
                             .event_seq = booking.event_seq,
                             .micro = micro,
                             .transfer_seq = seq,
                             .balance_before_micro = balance_before,
                             .now_us = booking.now_us});
  return micro;
}

absl::StatusOr<Charged> BookHop(UsageBook& book, const Hop& hop, int level, const Booking& booking) {
  Journal& journal = book.journal();
  const std::string& currency = hop.terms->currency;
  Account& customer = journal.Open(hop.buyer.party_no, "customer", currency);
  int64_t residue = customer.residue_pico;
  const int64_t micro = PostableMicro(hop.net_pico, &residue);
  if (residue != customer.residue_pico) journal.SetResidue(customer, residue);
  Taken taken;
  if (level == 0) {
    // Also for nothing: a hold of its own ends with its request.
    taken.held_micro = TakeHeld(journal, booking.credit, customer, std::max<int64_t>(micro, 0));
    taken.covered_micro = taken.held_micro;
  } else {
    taken = TakeAbove(journal, hop.buyer, booking.credit.id, std::max<int64_t>(micro, 0),
                      booking.credit.kind == CreditRef::kHold);
  }
  if (micro == 0) return Charged{};
  const Account& revenue = journal.Open(hop.seller_no, "revenue", currency);
  if (micro < 0) {
    return Charged{.micro = micro, .returned_micro = GiveBack(book, booking, hop, customer, revenue, -micro)};
  }
  Transfer transfer{.credit_account = revenue.account_no, .source = booking.event_seq, .booked_us = booking.now_us};
  if (taken.covered_micro > 0) {
    transfer.debit_account = customer.account_no;
    transfer.amount_micro = taken.covered_micro;
    transfer.kind = TransferKind::kUsage;
    journal.Post(transfer, taken.held_micro);
    journal.UseLots(customer, taken.covered_micro, booking.event_seq);
  }
  if (micro > taken.covered_micro) {
    GANTRY_ASSIGN_OR_RETURN(const PartyRow house, book.House());
    transfer.debit_account = journal.Open(house.party_no, "late_unheld", currency).account_no;
    transfer.amount_micro = micro - taken.covered_micro;
    transfer.kind = TransferKind::kUsageUnheld;
    transfer.reference = "no money was held for it any more";
    journal.Post(transfer);
  }
  return Charged{.micro = micro};
}

}  // namespace

absl::StatusOr<std::vector<Hop>> RateHops(UsageBook& book, const HopInput& input) {
  std::vector<Hop> hops;
  PartyRow buyer = input.tenant;
  while (buyer.depth > 0) {
    Hop hop{.seller_no = buyer.parent_no};
    if (hops.size() < input.terms.size()) {
      hop.terms = input.terms[hops.size()];
    } else {
      GANTRY_ASSIGN_OR_RETURN(hop.terms, book.TermsAt(buyer.party_no, input.pinned_us));
    }
    if (hop.terms->seller_no != buyer.parent_no) {
      return absl::InvalidArgumentError(
          absl::StrCat("plan version ", hop.terms->version_id.ToHex(), " is not of the seller of ", buyer.name));
    }
    const bool last = buyer.depth == 1;
    hop.buyer = std::move(buyer);
    GANTRY_ASSIGN_OR_RETURN(const Period period, book.OpenPeriodAt(hop.buyer, input.ended_us));
    hop.period = period.period;
    hop.period_from_us = period.from_us;
    hop.late = input.ended_us < period.from_us;
    GANTRY_RETURN_IF_ERROR(RateHop(book, input, &hop));
    hops.push_back(std::move(hop));
    if (last) break;
    GANTRY_ASSIGN_OR_RETURN(buyer, book.Party(hops.back().seller_no));
  }
  return hops;
}

absl::StatusOr<Charged> BookHops(UsageBook& book, const std::vector<Hop>& hops, const Booking& booking) {
  Charged tenants;
  for (size_t level = 0; level < hops.size(); ++level) {
    const Hop& hop = hops[level];
    book.db().Execute(
        "INSERT INTO rating (event_seq, level, buyer_no, seller_no, version_no, period, amount_pico) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        booking.event_seq, static_cast<int64_t>(level), hop.buyer.party_no, hop.seller_no, hop.terms->version_no,
        hop.period, hop.net_pico);
    if (hop.late) {
      book.db().Execute("INSERT INTO late_usage (buyer_no, period, event_seq) VALUES (?, ?, ?)", hop.buyer.party_no,
                        hop.period, booking.event_seq);
    }
    book.rollups().Add({hop.buyer.party_no, hop.period, hop.terms->version_no}, booking.model_no, hop.charges);
    GANTRY_ASSIGN_OR_RETURN(const Charged charged, BookHop(book, hop, static_cast<int>(level), booking));
    if (level == 0) tenants = charged;
  }
  return tenants;
}

}  // namespace gantry::billing
