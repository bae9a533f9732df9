#include <gtest/gtest.h>

#include <random>

#include "billing/catalog/plans.h"
#include "billing/ledger/credit.h"
#include "billing/testing/books.h"
#include "billing/usage/hops.h"
#include "billing/usage/margin.h"
#include "billing/usage/usage.h"

// house → first (+0 %) → second (+25 %) → theirs (+50 % on that).
namespace gantry::billing {
namespace {

class ResaleTest : public testing::Test {
 protected:
  ResaleTest()
      : first_(books_.NewReseller("first", 10'000'000, 250'000)),
        second_(books_.NewReseller("second", 10'000'000, 500'000, "first")),
        theirs_(books_.NewTenant("theirs", 10'000'000, "second")) {}

  v1::UsageRecord Record(const Id16& slice, uint64_t prompt, uint64_t output) {
    v1::UsageRecord record = books_.Record(slice, prompt, output);
    record.set_party_id(theirs_.ToBytes());
    record.set_plan_version_id(books_.PlanOf(theirs_).ToBytes());
    return record;
  }
  int64_t Revenue(const Id16& party) {
    return books_.Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
      Rows rows = db.Query(
          "SELECT credit_micro - debit_micro FROM account a JOIN party p USING (party_no) "
          "WHERE p.party_id = ? AND a.type = 'revenue'",
          party);
      return rows.Next() ? rows.Int(0) : 0;
    });
  }
  int64_t HousesRevenue() {
    return books_.Int(
        "SELECT credit_micro FROM account a JOIN party p USING (party_no) WHERE p.depth = 0 AND a.type = 'revenue'");
  }

  Books books_;
  Id16 first_, second_, theirs_;
};

TEST_F(ResaleTest, EveryHopPaysItsOwnPriceForTheSameUsage) {
  const Id16 slice = books_.SliceOf(theirs_, 1'000'000);
  v1::UsageRecord record = Record(slice, 0, 1000);
  ASSERT_EQ(books_.Append(record).record_ids_size(), 1);
  EXPECT_EQ(books_.FundsOfParty(theirs_).posted_micro, 10'000'000 - 1500);
  EXPECT_EQ(books_.FundsOfParty(second_).posted_micro, 10'000'000 - 1000);
  EXPECT_EQ(books_.FundsOfParty(first_).posted_micro, 10'000'000 - 800);
  EXPECT_EQ(Revenue(second_), 1500);
  EXPECT_EQ(Revenue(first_), 1000);
  EXPECT_EQ(HousesRevenue(), 800);
  for (const Id16& party : {first_, second_}) EXPECT_GT(books_.FundsOfParty(party).held_micro, 990'000);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
}

TEST_F(ResaleTest, ASliceIsGrantedByAllHopsOrNone) {
  EXPECT_FALSE(books_.SliceOf(theirs_, 10'000'000).IsZero());
  EXPECT_TRUE(books_.SliceOf(theirs_, 1).IsZero());
  const Id16 others = books_.NewTenant("others", 10'000'000, "second");
  EXPECT_TRUE(books_.SliceOf(others, 1).IsZero()) << "its reseller has nothing left";
  EXPECT_EQ(books_.FundsOfParty(others).held_micro, 0);
  EXPECT_TRUE(books_.Audited().ok());
}

TEST_F(ResaleTest, WhatComesBackComesBackAtEveryHop) {
  const Id16 slice = books_.SliceOf(theirs_, 1'000'000);
  v1::ReturnSliceRequest request;
  request.set_slice_id(slice.ToBytes());
  request.set_returned_micro(400'000);
  books_.Do([&](Database& db) { return ReturnSlice(db, request, books_.now_us()).status(); });
  for (const Id16& party : {theirs_, second_, first_}) EXPECT_EQ(books_.FundsOfParty(party).held_micro, 600'000);
  request.set_close(true);
  books_.Do([&](Database& db) { return ReturnSlice(db, request, books_.now_us()).status(); });
  for (const Id16& party : {theirs_, second_, first_}) EXPECT_EQ(books_.FundsOfParty(party).held_micro, 0);
  EXPECT_TRUE(books_.Audited().ok());
}

TEST_F(ResaleTest, AHoldEndsAtEveryHopWithItsUsage) {
  v1::ReserveRequest reserve;
  reserve.set_hold_id(NewTimeOrderedId().ToBytes());
  reserve.set_gateway_id(books_.gateway().ToBytes());
  reserve.set_gateway_epoch(1);
  reserve.set_party_id(theirs_.ToBytes());
  reserve.set_key_id(books_.key().ToBytes());
  reserve.set_request_id(NewTimeOrderedId().ToBytes());
  reserve.set_amount_micro(5000);
  reserve.set_plan_version_id(books_.PlanOf(theirs_).ToBytes());
  books_.Do([&](Database& db) { return Reserve(db, reserve, books_.now_us()).status(); });
  for (const Id16& party : {theirs_, second_, first_}) EXPECT_EQ(books_.FundsOfParty(party).held_micro, 5000);
  v1::UsageRecord record = Record(Id16{}, 0, 1000);
  record.clear_slice_id();
  record.set_hold_id(reserve.hold_id());
  ASSERT_EQ(books_.Append(record).record_ids_size(), 1);
  for (const Id16& party : {theirs_, second_, first_}) EXPECT_EQ(books_.FundsOfParty(party).held_micro, 0);
  EXPECT_EQ(books_.FundsOfParty(first_).posted_micro, 10'000'000 - 800);
  EXPECT_TRUE(books_.Audited().ok());
}

TEST_F(ResaleTest, AboveTheTenantThePriceIsTheOneWhenTheMoneyWasSetAside) {
  const Id16 slice = books_.SliceOf(theirs_, 1'000'000);
  books_.Advance(1000);
  v1::PublishPlanVersionRequest dearer;
  dearer.set_plan("standard");
  dearer.set_currency("EUR");
  for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
    v1::PriceLine* line = dearer.add_lines();
    line->set_model_glob("*");
    line->set_token_class(static_cast<v1::TokenClass>(c));
    line->set_price_micro_per_m(5'000'000);
  }
  books_.Do([&](Database& db) { return PublishPlanVersion(db, dearer, books_.now_us()).status(); });
  books_.Advance(1000);
  books_.Append(Record(slice, 0, 1000));
  EXPECT_EQ(HousesRevenue(), 800);
}

TEST_F(ResaleTest, AForeignPlanVersionIsRefused) {
  v1::UsageRecord record = Record(books_.SliceOf(theirs_, 1000), 0, 10);
  record.set_plan_version_id(books_.plan().ToBytes());  // the house's, which sells to `first` alone
  EXPECT_EQ(books_.Append(record).rejected_size(), 1);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM refused_record"), 1) << "kept to be looked at";
}

TEST_F(ResaleTest, MarginsAreTheSellersAlone) {
  books_.Append(Record(books_.SliceOf(theirs_, 1'000'000), 0, 1000));
  const auto margin = [&](const std::string& seller) {
    v1::MarginReportRequest request;
    request.set_seller_name(seller);
    request.set_period("2026-11");
    const auto report = books_.Get<v1::MarginReportResponse>([&](Database& db) { return MarginReport(db, request); });
    EXPECT_EQ(report.rows_size(), 1) << seller;
    return report.rows(0);
  };
  EXPECT_EQ(margin("second").buyer_name(), "theirs");
  EXPECT_EQ(margin("second").sold_pico(), 1'500'000'000);
  EXPECT_EQ(margin("second").bought_pico(), 1'000'000'000);
  EXPECT_EQ(margin("").sold_pico(), 800'000'000);
  EXPECT_EQ(margin("").bought_pico(), 0);
}

}  // namespace
}  // namespace gantry::billing
