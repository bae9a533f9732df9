#include "billing/ledger/lot_use.h"

#include <algorithm>
#include <tuple>

#include "billing/ledger/lots.h"

namespace gantry::billing {
namespace {

struct Use {
  LotShare share;
  bool promotional = false;
};

// What is known to have paid for the events, less what came back, the last used first.
std::vector<Use> UsesOf(Database& db, const std::vector<int64_t>& event_seqs, int64_t account_no) {
  struct Row {
    Use use;
    int64_t priority, expires_us, kind;
  };
  std::vector<Row> rows;
  for (const int64_t event_seq : event_seqs) {
    Rows found = db.Query(
        "SELECT u.lot_no, u.micro, coalesce(l.kind, 0), coalesce(l.priority, 0), coalesce(l.expires_us, 0) "
        "FROM lot_use u LEFT JOIN credit_lot l USING (lot_no) WHERE u.event_seq = ? AND u.account_no = ?",
        event_seq, account_no);
    while (found.Next()) {
      const auto same =
          std::find_if(rows.begin(), rows.end(), [&](const Row& row) { return row.use.share.lot_no == found.Int(0); });
      if (same != rows.end()) {
        same->use.share.micro += found.Int(1);
        continue;
      }
      const bool promotional = found.Int(2) == static_cast<int64_t>(LotKind::kPromotional);
      rows.push_back({{{found.Int(0), found.Int(1)}, promotional}, found.Int(3), found.Int(4), found.Int(2)});
    }
  }
  const auto order = [](const Row& row) {
    const int64_t lot_no = row.use.share.lot_no;
    return std::tuple(lot_no == 0, row.priority, row.expires_us, row.kind, lot_no);
  };
  std::sort(rows.begin(), rows.end(), [&](const Row& a, const Row& b) { return order(a) > order(b); });
  std::vector<Use> uses;
  for (const Row& row : rows) {
    if (row.use.share.micro > 0) uses.push_back(row.use);
  }
  return uses;
}

// Promotional lots that have paid debts which usage of `event_seq` may have been among: the newest payment first.
struct DebtPaid {
  int64_t key = 0;
  LotShare share;
};
std::vector<DebtPaid> DebtsPaidSince(Database& db, int64_t account_no, int64_t event_seq) {
  std::vector<DebtPaid> paid;
  Rows rows = db.Query(
      "SELECT event_seq, lot_no, micro FROM lot_use WHERE event_seq <= ? AND account_no = ? ORDER BY event_seq, lot_no",
      -event_seq, account_no);
  while (rows.Next()) paid.push_back({rows.Int(0), {rows.Int(1), rows.Int(2)}});
  return paid;
}

void TakeFromDebtPaid(Database& db, int64_t account_no, const DebtPaid& paid, int64_t micro) {
  if (micro == paid.share.micro) {
    db.Execute("DELETE FROM lot_use WHERE event_seq = ? AND account_no = ? AND lot_no = ?", paid.key, account_no,
               paid.share.lot_no);
    return;
  }
  db.Execute(
      "UPDATE lot_use SET micro = micro - ?1, seal = gantry_row_hash(event_seq, account_no, lot_no, micro - ?1) "
      "WHERE event_seq = ?2 AND account_no = ?3 AND lot_no = ?4",
      micro, paid.key, account_no, paid.share.lot_no);
}

}  // namespace

void RecordLotUse(Database& db, int64_t event_seq, int64_t account_no, const LotShare& share) {
  db.Execute(
      "INSERT INTO lot_use (event_seq, account_no, lot_no, micro, seal) VALUES (?1, ?2, ?3, ?4, "
      "gantry_row_hash(?1, ?2, ?3, ?4))",
      event_seq, account_no, share.lot_no, share.micro);
}

void RecordDebtPaid(Database& db, int64_t account_no, int64_t lot_no, int64_t micro) {
  int64_t last = 0;
  {
    // Every event that took money is the source of a transfer.
    Rows rows = db.Query("SELECT source FROM transfer WHERE kind BETWEEN 3 AND 6 ORDER BY seq DESC LIMIT 1");
    if (rows.Next()) last = rows.Int(0);
  }
  if (last == 0 || micro == 0) return;
  db.Execute(
      "INSERT INTO lot_use (event_seq, account_no, lot_no, micro, seal) VALUES (?1, ?2, ?3, ?4, "
      "gantry_row_hash(?1, ?2, ?3, ?4)) ON CONFLICT (event_seq, account_no, lot_no) DO UPDATE SET "
      "micro = micro + excluded.micro, seal = gantry_row_hash(event_seq, account_no, lot_no, micro + excluded.micro)",
      -last, account_no, lot_no, micro);
}

void ReturnToLots(Journal& journal, const Account& account, const ReturnedUsage& returned) {
  Database& db = journal.db();
  const int64_t account_no = account.account_no;
  journal.ForgetLot(account);
  const auto restore = [&](int64_t lot_no, int64_t micro) {
    db.Execute("UPDATE credit_lot SET left_micro = left_micro + ? WHERE lot_no = ?", micro, lot_no);
  };
  int64_t left = returned.micro, unknown = 0, bought = 0;
  for (const Use& use : UsesOf(db, returned.event_seqs, account_no)) {
    const int64_t part = std::min(left, use.share.micro);
    if (part == 0) break;
    RecordLotUse(db, returned.event_seq, account_no, {use.share.lot_no, -part});
    left -= part;
    if (use.promotional) {
      restore(use.share.lot_no, part);
    } else {
      (use.share.lot_no == 0 ? unknown : bought) += part;
    }
  }
  unknown += left;
  for (const DebtPaid& paid : DebtsPaidSince(db, account_no, returned.event_seqs.front())) {
    const int64_t part = std::min(unknown, paid.share.micro);
    if (part == 0) break;
    TakeFromDebtPaid(db, account_no, paid, part);
    restore(paid.share.lot_no, part);
    unknown -= part;
  }
  bought += unknown;
  if (bought > 0) AddLot(journal, account, 0, {.amount_micro = bought}, returned.transfer_seq, returned.now_us);
  const int64_t debt = std::clamp<int64_t>(-returned.balance_before_micro, 0, returned.micro);
  if (debt > 0) journal.UseLots(account, debt, Journal::kDebt);
}

}  // namespace gantry::billing
