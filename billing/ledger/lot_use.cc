#include "billing/ledger/lot_use.h"

#include <algorithm>
#include <limits>
#include <map>
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

// What is known to have paid for a posting of an invoice, the last used first.
std::vector<Use> UsesOfPosting(Database& db, int64_t transfer_seq) {
  std::vector<Use> uses;
  // Promotional credit pays before or after what was bought; a gift must not stay behind.
  Rows rows = db.Query(
      "SELECT u.lot_no, u.micro, l.kind IS 1 FROM posting_use u LEFT JOIN credit_lot l USING (lot_no) "
      "WHERE u.transfer_seq = ? ORDER BY u.lot_no <> 0, l.kind, l.priority DESC, l.expires_us DESC, u.lot_no DESC",
      transfer_seq);
  while (rows.Next()) uses.push_back({{rows.Int(0), rows.Int(1)}, rows.Int(2) == 1});
  return uses;
}

// Debts that promotional credit may have paid: all that something of which nobody knows may have been among.
struct Debts {
  int64_t since_event = 0;    // paid when it had been booked
  int64_t given_from_us = 0;  // by lots that were granted from then on
  int64_t most_micro = std::numeric_limits<int64_t>::max();
};
// By which lots, the newest payment first.
struct DebtPaid {
  int64_t key = 0;
  LotShare share;
};
std::vector<DebtPaid> DebtsPaidSince(Database& db, int64_t account_no, const Debts& debts) {
  std::vector<DebtPaid> paid;
  Rows rows = db.Query(
      "SELECT u.event_seq, u.lot_no, u.micro FROM lot_use u JOIN credit_lot l USING (lot_no) "
      "WHERE u.event_seq <= ? AND u.account_no = ? AND l.granted_us >= ? ORDER BY u.event_seq, u.lot_no",
      -debts.since_event, account_no, debts.given_from_us);
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

// A posting's, once it has come back.
void TakeFromPosting(Database& db, int64_t transfer_seq, const LotShare& share, int64_t micro) {
  if (micro == share.micro) {
    db.Execute("DELETE FROM posting_use WHERE transfer_seq = ? AND lot_no = ?", transfer_seq, share.lot_no);
    return;
  }
  db.Execute(
      "UPDATE posting_use SET micro = micro - ?1, seal = gantry_row_hash(transfer_seq, lot_no, micro - ?1) "
      "WHERE transfer_seq = ?2 AND lot_no = ?3",
      micro, transfer_seq, share.lot_no);
}

// Money that comes back to an account, while it is shared out.
class Return {
 public:
  Return(Journal& journal, const Account& account, int64_t micro)
      : db_(journal.db()), journal_(journal), account_(account), micro_(micro), left_(micro) {
    journal.ForgetLot(account);
  }

  // What of a share comes back: at most what is left.
  int64_t Take(const Use& use) {
    int64_t part = std::min(left_, use.share.micro);
    if (use.promotional) part = std::min(part, LostBy(use.share.lot_no));
    left_ -= part;
    taken_[use.share.lot_no] += part;
    if (use.promotional) {
      Restore(use.share.lot_no, part);
    } else {
      (use.share.lot_no == 0 ? unknown_ : bought_) += part;
    }
    return part;
  }
  // What promotional lots have paid for a month, in the order given: at most `micro`.
  void TakeGiven(const std::vector<LotShare>& given, int64_t micro) {
    for (const LotShare& share : given) {
      micro -= Take({{share.lot_no, std::min(micro, share.micro)}, true});
    }
  }
  // What came back of known shares, by a usage event.
  void RecordFor(int64_t event_seq) {
    for (const auto& [lot_no, micro] : taken_) {
      if (micro > 0) RecordLotUse(db_, event_seq, account_.account_no, {lot_no, -micro});
    }
  }
  // Shares out what nobody knows to have been paid by anything: what is no gift's was bought, or is owed still. Then
  // pays what is owed.
  void End(const Debts& debts, int64_t transfer_seq, int64_t balance_before_micro, int64_t now_us) {
    unknown_ += left_;
    left_ = 0;
    int64_t most = debts.most_micro;
    for (const DebtPaid& paid : DebtsPaidSince(db_, account_.account_no, debts)) {
      if (std::min(unknown_, most) <= 0) break;
      const int64_t part = std::min({unknown_, paid.share.micro, most, LostBy(paid.share.lot_no)});
      if (part == 0) continue;
      TakeFromDebtPaid(db_, account_.account_no, paid, part);
      Restore(paid.share.lot_no, part);
      unknown_ -= part;
      most -= part;
    }
    const int64_t rest = unknown_;
    const int64_t debt = std::clamp<int64_t>(-balance_before_micro, 0, micro_);
    const int64_t never_paid = std::min(debt, rest);
    if (bought_ + rest > 0) {
      AddLot(journal_, account_, -never_paid, {.amount_micro = bought_ + rest}, transfer_seq, now_us);
    }
    if (debt > never_paid) journal_.UseLots(account_, debt - never_paid, Journal::kDebt);
  }

 private:
  // A lot never gets more than it has lost: a volume tier may have given back to it what a request still says it gave.
  int64_t LostBy(int64_t lot_no) {
    Rows rows = db_.Query(
        "SELECT l.amount_micro - l.left_micro - (SELECT coalesce(sum(t.amount_micro), 0) FROM transfer t WHERE "
        "t.source = l.lot_no AND t.kind > 3 AND t.kind = 7) FROM credit_lot l WHERE l.lot_no = ?",
        lot_no);
    return rows.Next() ? rows.Int(0) : 0;
  }
  void Restore(int64_t lot_no, int64_t micro) {
    db_.Execute("UPDATE credit_lot SET left_micro = left_micro + ? WHERE lot_no = ?", micro, lot_no);
  }

  Database& db_;
  Journal& journal_;
  const Account& account_;
  const int64_t micro_;
  int64_t left_, unknown_ = 0, bought_ = 0;
  std::map<int64_t, int64_t> taken_;  // by lot
};

// The last usage that had been booked before a transfer, 0: none. Every event that took money is the source of one.
int64_t LastUsageBefore(Database& db, int64_t transfer_seq) {
  Rows rows = db.Query("SELECT source FROM transfer WHERE seq < ? AND kind BETWEEN 3 AND 6 ORDER BY seq DESC LIMIT 1",
                       transfer_seq);
  return rows.Next() ? rows.Int(0) : 0;
}

}  // namespace

void RecordPostingUse(Database& db, int64_t transfer_seq, const LotShare& share) {
  db.Execute(
      "INSERT INTO posting_use (transfer_seq, lot_no, micro, seal) VALUES (?1, ?2, ?3, gantry_row_hash(?1, ?2, ?3))",
      transfer_seq, share.lot_no, share.micro);
}

void RecordLotUse(Database& db, int64_t event_seq, int64_t account_no, const LotShare& share) {
  db.Execute(
      "INSERT INTO lot_use (event_seq, account_no, lot_no, micro, seal) VALUES (?1, ?2, ?3, ?4, "
      "gantry_row_hash(?1, ?2, ?3, ?4))",
      event_seq, account_no, share.lot_no, share.micro);
}

void RecordDebtPaid(Database& db, int64_t account_no, int64_t lot_no, int64_t micro) {
  if (micro == 0) return;
  const int64_t last = LastUsageBefore(db, std::numeric_limits<int64_t>::max());
  db.Execute(
      "INSERT INTO lot_use (event_seq, account_no, lot_no, micro, seal) VALUES (?1, ?2, ?3, ?4, "
      "gantry_row_hash(?1, ?2, ?3, ?4)) ON CONFLICT (event_seq, account_no, lot_no) DO UPDATE SET "
      "micro = micro + excluded.micro, seal = gantry_row_hash(event_seq, account_no, lot_no, micro + excluded.micro)",
      -last, account_no, lot_no, micro);
}

void ReturnToLots(Journal& journal, const Account& account, const ReturnedUsage& returned) {
  Return back(journal, account, returned.micro);
  for (const Use& use : UsesOf(journal.db(), returned.event_seqs, account.account_no)) back.Take(use);
  back.TakeGiven(returned.given, returned.beyond_micro);
  back.RecordFor(returned.event_seq);
  back.End({.since_event = returned.event_seqs.front()}, returned.transfer_seq, returned.balance_before_micro,
           returned.now_us);
}

void ReturnToLots(Journal& journal, const Account& account, const ReturnedTier& returned) {
  Return back(journal, account, returned.micro);
  back.TakeGiven(returned.given, returned.micro);
  back.RecordFor(returned.event_seq);
  back.End({.since_event = returned.month_event_seq}, returned.transfer_seq, returned.balance_before_micro,
           returned.now_us);
}

void ReturnToLots(Journal& journal, const Account& account, const ReturnedPosting& returned) {
  Database& db = journal.db();
  Return back(journal, account, returned.micro);
  for (const Use& use : UsesOfPosting(db, returned.posting_seq)) {
    const int64_t part = back.Take(use);
    if (part > 0) TakeFromPosting(db, returned.posting_seq, use.share, part);
  }
  back.End({.since_event = LastUsageBefore(db, returned.posting_seq), .most_micro = returned.not_deducted_micro},
           returned.transfer_seq, returned.balance_before_micro, returned.now_us);
}

void ReturnToLots(Journal& journal, const Account& account, const ReturnedNet& returned) {
  Return back(journal, account, returned.micro);
  back.End({.given_from_us = returned.given_from_us, .most_micro = returned.not_deducted_micro}, returned.transfer_seq,
           returned.balance_before_micro, returned.now_us);
}

}  // namespace gantry::billing
