#include "billing/usage/correct.h"

#include <gtest/gtest.h>

#include "billing/testing/books.h"
#include "billing/usage/rollup.h"

namespace gantry::billing {
namespace {

absl::StatusOr<v1::UsageRow> Correct(Books& books, const v1::UsageRecord& record, uint64_t prompt, uint64_t output) {
  v1::CorrectUsageRequest request;
  request.set_request_id(record.request_id());
  request.set_prompt_tokens(prompt);
  request.set_output_tokens(output);
  request.set_reason("the worker counted twice");
  absl::StatusOr<v1::UsageRow> row = absl::UnknownError("not run");
  books.store()
      .WriteAndWait([&](Database& db) {
        row = CorrectUsage(db, request, books.now_us());
        return row.status();
      })
      .IgnoreError();
  return row;
}

TEST(Corrections, GiveBackWhatWasTooMuchAndChargeWhatWasTooLittle) {
  Books books;
  const v1::UsageRecord record = books.Record(books.Slice(1'000'000), 0, 1000);
  books.Append(record);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 800);
  auto row = Correct(books, record, 0, 100);
  ASSERT_TRUE(row.ok()) << row.status();
  EXPECT_EQ(row->output_tokens(), -900);
  EXPECT_EQ(row->amount_pico(), -720'000'000);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 80);
  ASSERT_TRUE(Correct(books, record, 10, 100).ok());
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 80);
  EXPECT_EQ(books.Int("SELECT debit_micro FROM account WHERE type = 'late_unheld'"), 2)
      << "a correction never takes what nobody has set aside";
  EXPECT_EQ(books.Int("SELECT quantity FROM usage_rollup WHERE position = 2"), 100);
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();
  EXPECT_TRUE(absl::IsFailedPrecondition(Correct(books, record, 10, 100).status())) << "nothing differs";
}

TEST(Corrections, EndAQuarantine) {
  Books books;
  const v1::UsageRecord record = books.Record(books.Slice(1'000'000), 100, 51);
  books.Append(record);
  books.Append(books.Witness(record, 50));
  EXPECT_EQ(books.MatchState(record), "quarantined");
  ASSERT_TRUE(Correct(books, record, 100, 50).ok());
  EXPECT_EQ(books.MatchState(record), "agreed");
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();
}

TEST(Corrections, ReturnToTheHouseWhatTheHouseHadPaid) {
  Books books;
  const v1::UsageRecord record = books.Record(books.Slice(300), 0, 1000);  // 800, of which 300 were held
  books.Append(record);
  ASSERT_TRUE(Correct(books, record, 0, 0).ok());
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000);
  EXPECT_EQ(books.Int("SELECT credit_micro - debit_micro FROM account WHERE type = 'late_unheld'"), 0);
  EXPECT_EQ(books.Int("SELECT credit_micro - debit_micro FROM account WHERE type = 'revenue'"), 0);
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();
}

TEST(Corrections, NeedARequestThatWasBilled) {
  Books books;
  v1::UsageRecord record = books.Record(books.Slice(300), 0, 10);
  EXPECT_TRUE(absl::IsNotFound(Correct(books, record, 0, 1).status()));
}

}  // namespace
}  // namespace gantry::billing
