#include "billing/ledger/key_budget.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "billing/parties/calendar.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

absl::Status FindPeriod(Database& db, const PartyRow& party, int64_t now_us, Budget* budget) {
  {
    Rows rows = db.Query(
        "SELECT from_us, to_us, used_micro, held_micro FROM budget_use WHERE budget_no = ? AND from_us <= ? "
        "ORDER BY from_us DESC LIMIT 1",
        budget->budget_no, now_us);
    if (rows.Next() && rows.Int(1) > now_us) {
      budget->from_us = rows.Int(0);
      budget->to_us = rows.Int(1);
      budget->used_micro = rows.Int(2);
      budget->held_micro = rows.Int(3);
      return absl::OkStatus();
    }
  }
  if (budget->period == v1::BUDGET_PERIOD_LIFE) return absl::OkStatus();
  const bool day = budget->period == v1::BUDGET_PERIOD_DAY;
  GANTRY_ASSIGN_OR_RETURN(const CivilSpan span,
                          day ? DaySpanAt(party.time_zone, now_us) : MonthSpanAt(party.time_zone, now_us));
  budget->from_us = span.from_us;
  budget->to_us = span.to_us;
  return absl::OkStatus();
}

struct Share {
  int64_t budget_no = 0;
  int64_t from_us = 0;
  int64_t left_micro = 0;
};
// False: the credit has no budget, or it is closed.
bool FindShare(Database& db, const Id16& credit_id, Share* share) {
  Rows rows = db.Query(
      "SELECT budget_no, from_us, granted_micro - spent_micro - returned_micro FROM credit_budget "
      "WHERE credit_id = ? AND open = 1",
      credit_id);
  if (!rows.Next()) return false;
  *share = {rows.Int(0), rows.Int(1), rows.Int(2)};
  return true;
}

void ChangeUse(Database& db, const Share& share, int64_t used_micro, int64_t held_micro) {
  if (used_micro == 0 && held_micro == 0) return;
  db.Execute(
      "UPDATE budget_use SET used_micro = used_micro + ?, held_micro = held_micro + ? WHERE budget_no = ? AND "
      "from_us = ?",
      used_micro, held_micro, share.budget_no, share.from_us);
}

}  // namespace

void AddBudget(Database& db, int64_t key_no, v1::BudgetPeriod period, int64_t amount_micro) {
  db.Execute("INSERT INTO budget (period, amount_micro) VALUES (?, ?)", static_cast<int64_t>(period), amount_micro);
  db.Execute("INSERT INTO key_budget (key_no, budget_no) VALUES (?, ?)", key_no, db.LastRowId());
}

void ShareBudget(Database& db, int64_t key_no, int64_t other_key_no) {
  db.Execute("INSERT INTO key_budget (key_no, budget_no) SELECT ?, budget_no FROM key_budget WHERE key_no = ?", key_no,
             other_key_no);
}

absl::StatusOr<Budget> BudgetOf(Database& db, const PartyRow& party, const Id16& key_id, int64_t now_us) {
  Budget budget;
  {
    Rows rows = db.Query(
        "SELECT b.budget_no, b.period, b.amount_micro FROM api_key k JOIN key_budget USING (key_no) "
        "JOIN budget b USING (budget_no) WHERE k.key_id = ? AND k.party_no = ?",
        key_id, party.party_no);
    if (!rows.Next()) return budget;
    budget.budget_no = rows.Int(0);
    budget.period = static_cast<v1::BudgetPeriod>(rows.Int(1));
    budget.amount_micro = rows.Int(2);
  }
  GANTRY_RETURN_IF_ERROR(FindPeriod(db, party, now_us, &budget));
  return budget;
}

bool Shares(Database& db, int64_t key_no, int64_t budget_no) {
  return db.Query("SELECT 1 FROM key_budget WHERE key_no = ? AND budget_no = ?", key_no, budget_no).Next();
}

Budget BudgetOfCredit(Database& db, const Id16& credit_id) {
  Budget budget;
  Rows rows = db.Query(
      "SELECT b.budget_no, b.period, b.amount_micro, u.from_us, u.to_us, u.used_micro, u.held_micro "
      "FROM credit_budget c JOIN budget b USING (budget_no) JOIN budget_use u USING (budget_no, from_us) "
      "WHERE c.credit_id = ? AND c.open = 1",
      credit_id);
  if (!rows.Next()) return budget;
  return {.budget_no = rows.Int(0),
          .period = static_cast<v1::BudgetPeriod>(rows.Int(1)),
          .amount_micro = rows.Int(2),
          .from_us = rows.Int(3),
          .to_us = rows.Int(4),
          .used_micro = rows.Int(5),
          .held_micro = rows.Int(6)};
}

absl::Status BudgetSpent(const Budget& budget, const PartyRow& party, int64_t asked_micro) {
  std::string reset = "never";
  if (budget.period != v1::BUDGET_PERIOD_LIFE) {
    absl::StatusOr<absl::TimeZone> zone = ZoneNamed(party.time_zone);
    reset = absl::FormatTime(absl::RFC3339_sec, absl::FromUnixMicros(budget.to_us),
                             zone.ok() ? *zone : absl::UTCTimeZone());
  }
  return absl::OutOfRangeError(absl::StrCat("the budget of this key is spent: budget ", budget.amount_micro, ", used ",
                                            budget.used_micro, ", held ", budget.held_micro, ", asked ", asked_micro,
                                            " (millionths of ", party.currency, "), resets ", reset));
}

void HoldOfBudget(Database& db, const Budget& budget, const Id16& credit_id, int64_t micro) {
  db.Execute(
      "INSERT INTO budget_use (budget_no, from_us, to_us, used_micro, held_micro) VALUES (?, ?, ?, 0, ?) "
      "ON CONFLICT (budget_no, from_us) DO UPDATE SET held_micro = held_micro + excluded.held_micro",
      budget.budget_no, budget.from_us, budget.to_us, micro);
  db.Execute(
      "INSERT INTO credit_budget (credit_id, budget_no, from_us, granted_micro, open) VALUES (?, ?, ?, ?, 1) "
      "ON CONFLICT (credit_id) DO UPDATE SET granted_micro = granted_micro + excluded.granted_micro",
      credit_id, budget.budget_no, budget.from_us, micro);
}

void ReturnToBudget(Database& db, const Id16& credit_id, int64_t micro, bool close) {
  Share share;
  if (!FindShare(db, credit_id, &share)) return;
  const int64_t back = close ? share.left_micro : std::min(share.left_micro, micro);
  db.Execute("UPDATE credit_budget SET returned_micro = returned_micro + ?, open = ? WHERE credit_id = ?", back,
             close ? 0 : 1, credit_id);
  ChangeUse(db, share, 0, -back);
}

void UseBudget(Database& db, const Id16& credit_id, int64_t micro, bool close) {
  Share share;
  if (!FindShare(db, credit_id, &share)) return;
  const int64_t used = std::min(share.left_micro, micro);
  const int64_t back = close ? share.left_micro - used : 0;
  db.Execute(
      "UPDATE credit_budget SET spent_micro = spent_micro + ?, returned_micro = returned_micro + ?, open = ? "
      "WHERE credit_id = ?",
      used, back, close ? 0 : 1, credit_id);
  ChangeUse(db, share, used, -used - back);
}

void GiveBackToBudget(Database& db, int64_t event_seq, int64_t key_no, int64_t at_us, int64_t micro) {
  const int64_t recorded = db.Execute(
      "INSERT INTO budget_return (event_seq, budget_no, from_us, micro) "
      "SELECT ?1, u.budget_no, u.from_us, min(u.used_micro, ?4) FROM key_budget b JOIN budget_use u USING (budget_no) "
      "WHERE b.key_no = ?2 AND u.from_us <= ?3 AND u.to_us > ?3 AND min(u.used_micro, ?4) > 0 "
      "ORDER BY u.from_us DESC LIMIT 1",
      event_seq, key_no, at_us, micro);
  if (recorded == 0) return;
  db.Execute(
      "UPDATE budget_use SET used_micro = used_micro - r.micro FROM budget_return r WHERE r.event_seq = ? AND "
      "r.budget_no = budget_use.budget_no AND r.from_us = budget_use.from_us",
      event_seq);
}

}  // namespace gantry::billing
