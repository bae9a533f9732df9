#include "billing/ledger/ledger.h"

#include <gtest/gtest.h>

#include <limits>

#include "absl/strings/match.h"
#include "billing/ledger/lots.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

TEST(Ledger, TopUpsAreBalanced) {
  Books books;
  const Funds funds = books.FundsOfParty(books.tenant());
  EXPECT_EQ(funds.posted_micro, 10'000'000);
  EXPECT_EQ(funds.available_micro, 10'000'000);
  EXPECT_EQ(books.Int("SELECT sum(debit_micro) - sum(credit_micro) FROM account"), 0);
  EXPECT_EQ(books.Int("SELECT debit_micro FROM account WHERE type = 'cash'"), 10'000'000);
}

TEST(Ledger, SumsBeyondTheAccountAreRefused) {
  Books books;
  const int64_t large = std::numeric_limits<int64_t>::max() / 4;
  absl::Status status = books.store().WriteAndWait([&](Database& db) {
    return PostCredit(db, *PartyById(db, books.tenant()), {.amount_micro = large}, books.now_us());
  });
  EXPECT_TRUE(absl::IsOutOfRange(status)) << status;
  EXPECT_EQ(books.Int("SELECT count(*) FROM transfer"), 1);
}

TEST(Ledger, HistoryCannotBeRewritten) {
  Books books;
  for (const char* sql :
       {"UPDATE transfer SET amount_micro = 1", "DELETE FROM transfer", "UPDATE plan_line SET position = 9",
        "DELETE FROM plan_version", "UPDATE audit_log SET action = 'x'"}) {
    absl::Status status = books.store().WriteAndWait([&](Database& db) {
      db.Execute(
          "INSERT INTO audit_log (seq, at_us, actor, action, object, detail, hash) "
          "VALUES (1, 1, '', '', '', '', zeroblob(32))");
      db.Script(sql);
      return absl::OkStatus();
    });
    EXPECT_FALSE(status.ok()) << sql;
    EXPECT_TRUE(absl::StrContains(status.message(), "immutable") || absl::StrContains(status.message(), "kept"))
        << sql << ": " << status;
  }
}

}  // namespace
}  // namespace gantry::billing
