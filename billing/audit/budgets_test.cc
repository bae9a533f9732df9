// What the audit makes of budgets of keys.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/audit/audit.h"
#include "billing/audit/checks.h"
#include "billing/ledger/credit.h"
#include "billing/store/schema.h"
#include "billing/testing/books.h"
#include "billing/usage/correct.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kDayUs = 86'400'000'000;

AuditResult Result(Books& books) {
  AuditResult result;
  EXPECT_TRUE(books.store()
                  .ReadAndWait([&](Database& db) {
                    result = AuditBooks(db);
                    return absl::OkStatus();
                  })
                  .ok());
  return result;
}

// In Shanghai, where it is 20:00 of 2026-11-10 at first: two keys with budgets, on two days, one request corrected; 300
// of `day` are used today, 120 of `life`; a slice of each is open, and one that has no budget.
struct Budgeted {
  Budgeted() {
    books.Do([&](Database& db) {
      db.Execute("UPDATE party SET time_zone = 'Asia/Shanghai' WHERE party_id = ?", books.tenant());
      return absl::OkStatus();
    });
    day = books.NewKey(1000, v1::BUDGET_PERIOD_DAY);
    life = books.NewKey(5000, v1::BUDGET_PERIOD_LIFE);
    Use(day, Slice(day, 700), 700);
    books.Advance(kDayUs);
    const v1::UsageRecord corrected = Use(day, Slice(day, 1000), 400);
    books.Do([&](Database& db) {
      v1::CorrectUsageRequest request;
      request.set_request_id(corrected.request_id());
      request.set_prompt_tokens(300 * 5);
      request.set_reason("counted twice");
      return CorrectUsage(db, request, books.now_us()).status();
    });
    Use(life, Slice(life, 200), 120);
    books.Append(books.Record(books.Slice(1000), 500, 0));
  }
  Id16 Slice(const v1::Key& key, int64_t micro) { return books.SliceOf(books.tenant(), micro, 1, key.key_id()); }
  v1::UsageRecord Use(const v1::Key& key, const Id16& slice, uint64_t micro) {
    v1::UsageRecord record = books.Record(slice, micro * 5, 0);
    record.set_key_id(key.key_id());
    books.Append(record);
    return record;
  }

  Books books;
  v1::Key day, life;
};

TEST(AuditOfBudgets, NamesKeyAndPeriodAndWhoseItIs) {
  Budgeted b;
  ASSERT_TRUE(Result(b.books).report.ok()) << Result(b.books).report.DebugString();
  b.books.Tamper("UPDATE budget_use SET used_micro = used_micro - 1 WHERE used_micro = 300");
  const AuditResult result = Result(b.books);
  ASSERT_EQ(result.findings.size(), 1u) << result.report.DebugString();
  const Finding& finding = result.findings[0];
  EXPECT_EQ(finding.check, check::kBudgetsUsed);
  EXPECT_THAT(finding.row, HasSubstr("budget_use 1/"));
  EXPECT_EQ(finding.detail,
            absl::StrCat("key ", b.day.public_id(), ", day 2026-11-11: used is 1 micro-units less than what ",
                         "its slices, holds and corrections come to"));
  EXPECT_EQ(finding.party_no, b.books.Int("SELECT party_no FROM party WHERE name = 'demo'")) << "is parked for it";
}

TEST(AuditOfBudgets, NoticesWhatIsChangedInOnePlaceAndInSeveral) {
  struct Case {
    const char* what;
    const char* sql;
    const char* check;
  };
  for (const Case& c : std::vector<Case>{
           {"used", "UPDATE budget_use SET used_micro = 0 WHERE used_micro = 700", check::kBudgetsUsed},
           {"used, as if from before", "UPDATE budget_use SET before_micro = before_micro + 1 WHERE used_micro = 700",
            check::kBudgetsUsed},
           {"held", "UPDATE budget_use SET held_micro = held_micro + 1 WHERE used_micro = 300", check::kBudgetsHeld},
           {"a period that is gone", "DELETE FROM budget_use WHERE used_micro = 700", check::kBudgetsUsed},
           {"a share that is gone", "DELETE FROM credit_budget WHERE spent_micro = 700", check::kBudgetsUsed},
           {"a slice that is gone", "DELETE FROM slice WHERE spent_micro = 700", check::kBudgetsUsed},
           {"a correction that is gone", "DELETE FROM budget_return", check::kBudgetsUsed},
           {"more given back than the correction did",
            "UPDATE budget_return SET micro = 150; UPDATE budget_use SET used_micro = 250 WHERE used_micro = 300",
            check::kBudgetsUsed},
           {"given back on another day",
            "UPDATE budget_return SET from_us = (SELECT from_us FROM budget_use WHERE used_micro = 700);"
            "UPDATE budget_use SET used_micro = used_micro + 100 WHERE used_micro = 300;"
            "UPDATE budget_use SET used_micro = used_micro - 100 WHERE used_micro = 700",
            check::kBudgetsUsed},
           {"used and its share",
            "UPDATE credit_budget SET spent_micro = 699, returned_micro = 1 WHERE spent_micro = 700;"
            "UPDATE budget_use SET used_micro = 699 WHERE used_micro = 700",
            check::kBudgetsUsed},
           {"counted on another day",
            "UPDATE credit_budget SET from_us = (SELECT from_us FROM budget_use WHERE used_micro = 300) "
            "WHERE spent_micro = 700;"
            "UPDATE budget_use SET used_micro = iif(used_micro = 300, 1000, 0) WHERE budget_no = 1",
            check::kBudgetsUsed},
           {"used, its share and the slice",
            "UPDATE credit_budget SET spent_micro = 110, returned_micro = 10 WHERE spent_micro = 120;"
            "UPDATE slice SET spent_micro = 110, returned_micro = 10 WHERE spent_micro = 120;"
            "UPDATE budget_use SET used_micro = 110 WHERE used_micro = 120",
            check::kSpent},
           {"used, its share and the slice, made up for by another slice",
            "UPDATE credit_budget SET granted_micro = 210, spent_micro = 130 WHERE spent_micro = 120;"
            "UPDATE slice SET granted_micro = 210, spent_micro = 130 WHERE spent_micro = 120;"
            "UPDATE slice SET granted_micro = 990, spent_micro = 90 WHERE spent_micro = 100;"
            "UPDATE budget_use SET used_micro = 130 WHERE used_micro = 120",
            check::kBudgetsUsed},
       }) {
    Budgeted b;
    b.books.Tamper(c.sql);
    const AuditResult result = Result(b.books);
    bool noticed = false;
    for (const Finding& finding : result.findings) noticed |= finding.check == c.check && finding.party_no != 0;
    EXPECT_TRUE(noticed) << c.what << "\n" << result.report.DebugString();
  }
}

// Budgets that were kept by gateways, or corrected before it was recorded what that gave back.
TEST(AuditOfBudgets, TakesWhatEarlierBooksHaveUsedAsItStands) {
  char name[] = "/tmp/gantry-budgets-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string path = absl::StrCat(name, "/gantry.db");
  absl::Span<const Migration> before = Migrations();
  while (std::string(before.back().name) != "0011_budgets") before.remove_suffix(1);
  before.remove_suffix(1);
  {
    auto store = Store::Open({.path = path, .migrations = before});
    ASSERT_TRUE(store.ok()) << store.status();
    const absl::Status filled = (*store)->WriteAndWait([](Database& db) -> absl::Status {
      db.Script(R"sql(
        INSERT INTO party (party_id, kind, name, legal_name, currency, status, parent_no, depth, credit_limit_micro,
          time_zone, created_us) VALUES (randomblob(16), 1, 'house', '', 'EUR', 1, NULL, 0, 0, 'UTC', 1),
          (randomblob(16), 3, 'demo', '', 'EUR', 1, 1, 1, 0, 'UTC', 1);
        INSERT INTO api_key (key_id, public_id, secret_hmac, party_no, label, created_us, expires_us, revoked_us, scopes,
          models, cidrs, requests_per_minute, tokens_per_minute, concurrency, budget_micro)
          VALUES (randomblob(16), 'old', zeroblob(32), 2, '', 1, 0, 0, '', '', '', 0, 0, 0, 900),
          (randomblob(16), 'new', zeroblob(32), 2, '', 1, 0, 0, '', '', '', 0, 0, 0, 900);
        INSERT INTO budget (period, amount_micro) VALUES (3, 900), (1, 900);
        INSERT INTO key_budget (key_no, budget_no) VALUES (1, 1), (2, 2);
        INSERT INTO slice (slice_id, party_no, gateway_no, gateway_epoch, wanted_micro, minimum_micro, granted_micro,
          open, granted_us) VALUES (x'000102030405060708090a0b0c0d0e0f', 2, 1, 1, 9, 1, 50, 1, 10);
        INSERT INTO credit_budget (credit_id, budget_no, from_us, granted_micro, open)
          VALUES (x'000102030405060708090a0b0c0d0e0f', 2, 5, 50, 1);
        INSERT INTO budget_use (budget_no, from_us, to_us, used_micro, held_micro)
          VALUES (1, 0, 9223372036854775807, 333, 0), (2, 5, 20, 7, 50);
      )sql");
      return absl::OkStatus();
    });
    ASSERT_TRUE(filled.ok()) << filled;
  }
  auto store = Store::Open({.path = path});
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Status looked = (*store)->ReadAndWait([](Database& db) -> absl::Status {
    Findings findings;
    CheckBudgets(db, {}, &findings);
    const AuditResult result = findings.Take();
    EXPECT_TRUE(result.report.ok()) << result.report.DebugString();
    Rows rows = db.Query("SELECT group_concat(before_micro, ' ') FROM budget_use");
    EXPECT_TRUE(rows.Next());
    EXPECT_EQ(rows.Text(0), "333 7");
    return absl::OkStatus();
  });
  EXPECT_TRUE(looked.ok()) << looked;
  store->reset();
  std::filesystem::remove_all(name);
}

}  // namespace
}  // namespace gantry::billing
