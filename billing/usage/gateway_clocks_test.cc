#include "billing/usage/gateway_clocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace gantry::billing {
namespace {

constexpr int64_t kNowUs = 1'794'312'000'000'000;
constexpr int64_t kMinuteUs = 60'000'000;

v1::UsageBatch Batch(const std::string& gateway, int64_t ahead_us, uint64_t age_ms = 0) {
  v1::UsageBatch batch;
  batch.set_gateway_id(gateway);
  batch.add_records();  // only the last one is looked at
  v1::UsageRecord* record = batch.add_records();
  record->set_wall_us(static_cast<uint64_t>(kNowUs + ahead_us) - age_ms * 1000);
  record->set_age_ms(age_ms);
  return batch;
}

TEST(GatewayClocks, AgreeWhenNobodyWasHeard) {
  EXPECT_TRUE(GatewayClocks().Check().ok());
}

TEST(GatewayClocks, ComplainWhenMoreThanHalfAreFarAway) {
  GatewayClocks clocks;
  clocks.Note(Batch("a", 0), kNowUs);
  clocks.Note(Batch("b", 6 * kMinuteUs), kNowUs);
  EXPECT_TRUE(clocks.Check().ok()) << "one of two";
  clocks.Note(Batch("c", -6 * kMinuteUs), kNowUs);
  const absl::Status two_of_three = clocks.Check();
  EXPECT_TRUE(absl::IsFailedPrecondition(two_of_three));
  EXPECT_THAT(std::string(two_of_three.message()), ::testing::HasSubstr("2 of 3 gateways"));
  clocks.Note(Batch("b", 4 * kMinuteUs), kNowUs);
  EXPECT_TRUE(clocks.Check().ok()) << "its clock was set";
}

TEST(GatewayClocks, HowLongARecordWaitedIsNotADifference) {
  GatewayClocks clocks;
  clocks.Note(Batch("a", 0, /*age_ms=*/3'600'000), kNowUs);
  EXPECT_TRUE(clocks.Check().ok());
}

TEST(GatewayClocks, WhatWasSaidLongAgoCountsNoMore) {
  std::chrono::steady_clock::time_point now{};
  GatewayClocks clocks([&] { return now; });
  clocks.Note(Batch("a", 6 * kMinuteUs), kNowUs);
  EXPECT_FALSE(clocks.Check().ok());
  now += std::chrono::minutes(61);
  EXPECT_TRUE(clocks.Check().ok());
}

TEST(GatewayClocks, BatchesWithoutATimeAndAbsurdOnesAreHarmless) {
  GatewayClocks clocks;
  clocks.Note(v1::UsageBatch(), kNowUs);
  v1::UsageBatch batch = Batch("a", 0);
  batch.mutable_records(1)->set_wall_us(0);
  clocks.Note(batch, kNowUs);
  EXPECT_TRUE(clocks.Check().ok());
  batch.mutable_records(1)->set_wall_us(~uint64_t{0});
  batch.mutable_records(1)->set_age_ms(~uint64_t{0});
  clocks.Note(batch, kNowUs);
  EXPECT_FALSE(clocks.Check().ok());
  for (size_t i = 0; i < kGatewayClocksMax + 10; ++i) clocks.Note(Batch(absl::StrCat("g", i), 0), kNowUs);
  EXPECT_TRUE(clocks.Check().ok());
}

}  // namespace
}  // namespace gantry::billing
