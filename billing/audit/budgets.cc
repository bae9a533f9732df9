// What a budget has used stands in four places that must agree: the period's own sum (budget_use), the shares of the
// slices and holds that count in it (credit_budget, less budget_return), those slices and holds themselves, and the
// postings of usage that they paid for. An event does not say which slice paid for it, so the last step is proven for
// all slices and holds of a party together, and for a budget's as a bound: they pay for its keys alone.
#include <map>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "billing/audit/checks.h"
#include "billing/parties/calendar.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {
namespace {

int64_t Shown(__int128 micro) {
  return static_cast<int64_t>(micro);
}

struct BudgetSums {
  v1::BudgetPeriod period = v1::BUDGET_PERIOD_UNSPECIFIED;
  int64_t party_no = 0;
  std::string key;  // the newest that shares it
  absl::TimeZone zone;
  __int128 spent = 0;  // by its slices and holds
  __int128 usage = 0;  // of its keys, as far as slices and holds paid for it
};

struct PeriodSums {
  int64_t to_us = 0, used = 0, held = 0;
  __int128 expected = 0, expected_held = 0;
  std::string partial;  // returns to it that are less than what was posted
};

class BudgetsPass {
 public:
  BudgetsPass(Database& db, const CreditTaken& taken, Findings* findings)
      : db_(db), taken_(taken), findings_(*findings) {}

  void Run() {
    findings_.Begin(check::kBudgetsHeld);
    findings_.Begin(check::kBudgetsUsed);
    ReadBudgets();
    ReadPeriods();
    Credits();
    Returns();
    Compare();
  }

 private:
  void ReadBudgets() {
    Rows rows = db_.Query(
        "SELECT b.budget_no, b.period, k.key_no, k.public_id, k.party_no, p.time_zone FROM budget b "
        "LEFT JOIN key_budget USING (budget_no) LEFT JOIN api_key k USING (key_no) LEFT JOIN party p USING (party_no) "
        "ORDER BY k.key_no");
    while (rows.Next()) {
      BudgetSums& budget = budgets_[rows.Int(0)];
      budget.period = static_cast<v1::BudgetPeriod>(rows.Int(1));
      budget.key = rows.Text(3);
      budget.party_no = rows.Int(4);
      budget.zone = ZoneNamed(rows.Text(5)).value_or(absl::UTCTimeZone());
      if (rows.Int(2) == 0) continue;  // of no key
      keys_[rows.Int(2)] = rows.Int(0);
      const auto usage = taken_.by_key.find(rows.Int(2));
      if (usage != taken_.by_key.end()) budget.usage += usage->second;
    }
  }

  void ReadPeriods() {
    Rows rows = db_.Query("SELECT budget_no, from_us, to_us, used_micro, held_micro, before_micro FROM budget_use");
    while (rows.Next()) {
      periods_[{rows.Int(0), rows.Int(1)}] = {
          .to_us = rows.Int(2), .used = rows.Int(3), .held = rows.Int(4), .expected = rows.Int(5)};
    }
  }

  // Each share is that of its slice or hold, and counts in the period in which this was granted.
  void Credits() {
    Rows rows = db_.Query(
        "SELECT c.credit_id, c.budget_no, c.from_us, c.granted_micro, c.spent_micro, c.returned_micro, c.open, "
        "coalesce(s.party_no, h.party_no), coalesce(s.granted_us, h.granted_us), "
        "(c.granted_micro, c.spent_micro, c.returned_micro, c.open) IS (s.granted_micro, s.spent_micro, "
        "s.returned_micro, s.open) OR (c.granted_micro, c.spent_micro, c.returned_micro, c.open) IS (h.held_micro, "
        "h.settled_micro, iif(h.state = 1, 0, h.held_micro - h.settled_micro), h.state = 1) "
        "FROM credit_budget c LEFT JOIN slice s ON s.slice_id = c.credit_id "
        "LEFT JOIN hold h ON h.hold_id = c.credit_id");
    while (rows.Next()) {
      const int64_t party_no = rows.Int(7);
      BudgetSums& budget = budgets_[rows.Int(1)];
      const auto wrong = [&](std::string detail) {
        findings_.Add(check::kBudgetsUsed, absl::StrCat("credit_budget ", absl::BytesToHexString(rows.Text(0))),
                      std::move(detail), party_no != 0 ? party_no : budget.party_no);
      };
      if (party_no == 0) {
        wrong("is of no slice and no hold");
      } else if (budget.party_no != party_no) {
        wrong("counts in another party's budget");
      } else if (rows.Int(9) == 0) {
        wrong(absl::StrCat("granted ", rows.Int(3), ", spent ", rows.Int(4), ", returned ", rows.Int(5),
                           ": its slice or hold says otherwise"));
      }
      const auto period = periods_.find({rows.Int(1), rows.Int(2)});
      if (period == periods_.end()) {
        wrong("counts in no period of its budget");
        continue;
      }
      if (party_no != 0 && (rows.Int(8) < rows.Int(2) || rows.Int(8) >= period->second.to_us)) {
        wrong("counts in another period than the one in which it was granted");
      }
      period->second.expected += rows.Int(4);
      if (rows.Int(6) == 1) {
        period->second.expected_held += static_cast<__int128>(rows.Int(3)) - rows.Int(4) - rows.Int(5);
      }
      budget.spent += rows.Int(4);
    }
  }

  // No more than its correction gave back to the tenant, where the request ended.
  void Returns() {
    Rows rows = db_.Query("SELECT event_seq, budget_no, from_us, micro FROM budget_return");
    while (rows.Next()) {
      const auto period = periods_.find({rows.Int(1), rows.Int(2)});
      const auto posted = taken_.returned.find(rows.Int(0));
      const bool there = period != periods_.end() && posted != taken_.returned.end();
      if (there) {
        const auto budget_no = keys_.find(posted->second.key_no);
        period->second.expected -= rows.Int(3);
        if (rows.Int(3) < posted->second.micro) {
          absl::StrAppend(&period->second.partial, "; budget_return ", rows.Int(0), " gave back ", rows.Int(3), " of ",
                          Shown(posted->second.micro));
        }
        if (budget_no != keys_.end() && budget_no->second == rows.Int(1) && rows.Int(3) <= posted->second.micro &&
            posted->second.ended_us >= rows.Int(2) && posted->second.ended_us < period->second.to_us) {
          continue;
        }
      }
      findings_.Add(check::kBudgetsUsed, absl::StrCat("budget_return ", rows.Int(0)),
                    absl::StrCat("gave back ", rows.Int(3), "; its correction gave its key ",
                                 posted == taken_.returned.end() ? 0 : Shown(posted->second.micro), " in that period"),
                    budgets_[rows.Int(1)].party_no);
    }
  }

  void Compare() {
    for (const auto& [key, period] : periods_) {
      const BudgetSums& budget = budgets_[key.first];
      const std::string row = absl::StrCat("budget_use ", key.first, "/", key.second);
      const std::string whose = absl::StrCat("key ", budget.key, ", ", PeriodName(budget, key.second), ": ");
      if (period.held != period.expected_held) {
        findings_.Add(check::kBudgetsHeld, row,
                      absl::StrCat(whose, "held is ", Beyond(period.held - period.expected_held),
                                   " what open slices and pending holds give"),
                      budget.party_no);
      }
      if (period.used != period.expected) {
        findings_.Add(check::kBudgetsUsed, row,
                      absl::StrCat(whose, "used is ", Beyond(period.used - period.expected),
                                   " what its slices, holds and corrections come to", period.partial),
                      budget.party_no);
      }
    }
    for (const auto& [number, budget] : budgets_) {
      if (budget.spent <= budget.usage) continue;
      findings_.Add(check::kBudgetsUsed, absl::StrCat("budget ", number),
                    absl::StrCat("key ", budget.key, ": what its slices and holds have spent is ",
                                 Beyond(budget.spent - budget.usage), " what usage of its keys took"),
                    budget.party_no);
    }
    const std::string figures = absl::StrCat(periods_.size(), " periods of budgets");
    findings_.Figures(check::kBudgetsHeld, figures);
    findings_.Figures(check::kBudgetsUsed, figures);
  }

  static std::string PeriodName(const BudgetSums& budget, int64_t from_us) {
    if (budget.period == v1::BUDGET_PERIOD_LIFE) return "its life";
    const bool day = budget.period == v1::BUDGET_PERIOD_DAY;
    return absl::StrCat(day ? "day " : "month ",
                        absl::FormatTime(day ? "%Y-%m-%d" : "%Y-%m", absl::FromUnixMicros(from_us), budget.zone));
  }

  Database& db_;
  const CreditTaken& taken_;
  Findings& findings_;
  std::map<int64_t, BudgetSums> budgets_;
  std::map<int64_t, int64_t> keys_;                            // budget_no by key_no
  std::map<std::pair<int64_t, int64_t>, PeriodSums> periods_;  // by budget_no and from_us
};

}  // namespace

void CheckSpent(Database& db, const CreditTaken& taken, Findings* findings) {
  findings->Begin(check::kSpent);
  std::map<int64_t, __int128> spent;
  {
    Rows rows = db.Query(
        "SELECT party_no, spent_micro FROM slice WHERE spent_micro <> 0 UNION ALL "
        "SELECT party_no, settled_micro FROM hold WHERE settled_micro <> 0");
    while (rows.Next()) spent[rows.Int(0)] += rows.Int(1);
  }
  for (const auto& [party_no, micro] : taken.by_party) spent[party_no] -= micro;
  for (const auto& [party_no, beyond] : spent) {
    if (beyond == 0) continue;
    findings->Add(check::kSpent, absl::StrCat("party ", party_no),
                  absl::StrCat("what its slices and holds have spent is ", Beyond(beyond), " what its usage took"),
                  party_no);
  }
  findings->Figures(check::kSpent, absl::StrCat(taken.by_party.size(), " buyers"));
}

void CheckBudgets(Database& db, const CreditTaken& taken, Findings* findings) {
  BudgetsPass(db, taken, findings).Run();
}

}  // namespace gantry::billing
