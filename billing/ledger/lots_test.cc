#include "billing/ledger/lots.h"

#include <gtest/gtest.h>

#include "billing/ledger/credit.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

constexpr int64_t kDayUs = 86'400'000'000;

class LotsTest : public testing::Test {
 protected:
  void Give(const Credit& credit) {
    books_.Do([&](Database& db) { return PostCredit(db, *PartyById(db, books_.tenant()), credit, books_.now_us()); });
  }
  // As usage does: 0.8 micro-units a token.
  void Use(int64_t micro) {
    books_.Append(books_.Record(books_.Slice(micro), 0, static_cast<uint64_t>(micro) * 10 / 8));
  }
  int64_t Left(int64_t lot) {
    return books_.Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
      Rows rows = db.Query("SELECT left_micro FROM credit_lot WHERE lot_no = ?", lot);
      return rows.Next() ? rows.Int(0) : -1;
    });
  }
  int Expire() {
    return books_.Get<int>([&](Database& db) { return ExpireLots(db, books_.now_us(), 100); });
  }
  Books books_;  // the tenant's 10 EUR are lot 1
};

TEST_F(LotsTest, AreUsedByPriorityThenExpiryThenPromotionalFirst) {
  const int64_t later = books_.now_us() + 9 * kDayUs;
  Give({.amount_micro = 100, .kind = LotKind::kBought, .expires_us = later});       // 2
  Give({.amount_micro = 100, .kind = LotKind::kPromotional, .expires_us = later});  // 3
  Give({.amount_micro = 100, .kind = LotKind::kBought, .expires_us = later - 1});   // 4
  Give({.amount_micro = 100, .kind = LotKind::kBought, .priority = -1});            // 5
  for (const int64_t lot : {5, 4, 3, 2}) {
    EXPECT_EQ(Left(lot), 100);
    Use(100);
    EXPECT_EQ(Left(lot), 0) << lot;
  }
  EXPECT_EQ(Left(1), 10'000'000);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
}

TEST_F(LotsTest, ExpireIntoBreakage) {
  Give({.amount_micro = 100, .kind = LotKind::kPromotional, .expires_us = books_.now_us() + kDayUs});
  Use(40);
  EXPECT_EQ(Expire(), 0);
  books_.Advance(kDayUs);
  EXPECT_EQ(Expire(), 1);
  EXPECT_EQ(Expire(), 0);
  EXPECT_EQ(Left(2), 0);
  EXPECT_EQ(books_.Int("SELECT credit_micro FROM account WHERE type = 'breakage'"), 60);
  EXPECT_EQ(books_.FundsOfParty(books_.tenant()).posted_micro, 10'000'000);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
}

TEST_F(LotsTest, WhatIsHeldExpiresOnceItIsFree) {
  Give({.amount_micro = 100, .kind = LotKind::kPromotional, .expires_us = books_.now_us() + kDayUs});
  const Id16 slice = books_.Slice(10'000'040);  // all but 60
  books_.Advance(kDayUs);
  EXPECT_EQ(Expire(), 1);
  EXPECT_EQ(Left(2), 40);
  v1::ReturnSliceRequest close;
  close.set_slice_id(slice.ToBytes());
  close.set_close(true);
  books_.Do([&](Database& db) { return ReturnSlice(db, close, books_.now_us()).status(); });
  EXPECT_EQ(Expire(), 1);
  EXPECT_EQ(Left(2), 0);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
}

TEST_F(LotsTest, WhatComesInFillsTheDebtFirst) {
  books_.Do([](Database& db) {
    db.Execute("UPDATE party SET credit_limit_micro = 1000 WHERE depth = 1");
    return absl::OkStatus();
  });
  Use(10'000'400);
  EXPECT_EQ(books_.FundsOfParty(books_.tenant()).posted_micro, -400);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
  Give({.amount_micro = 1000});
  EXPECT_EQ(Left(2), 600);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
}

}  // namespace
}  // namespace gantry::billing
