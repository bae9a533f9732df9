#include "billing/rating/rating.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>

namespace gantry::billing {
namespace {

const std::vector<PriceLine> kStandard = {
    FlatLine("*", TokenClass::kInput, 200'000), FlatLine("*", TokenClass::kCachedInput, 50'000),
    FlatLine("*", TokenClass::kOutput, 800'000), FlatLine("*", TokenClass::kRequest, 0)};

int64_t None(int) {
  return 0;
}

TEST(RatingTest, TokensTimesPriceIsExactInPicoUnits) {
  // 1,000 computed, 200 cached and 50 generated tokens: 0.0002 + 0.00001 + 0.00004 units.
  const auto charges =
      Rate(kStandard, "demo", 1200, {.input = 1000, .cached_input = 200, .output = 50, .requests = 1}, None).value();
  ASSERT_EQ(charges.size(), 4u);
  EXPECT_EQ(charges[0].amount_pico, 200'000'000);
  EXPECT_EQ(charges[1].amount_pico, 10'000'000);
  EXPECT_EQ(charges[2].amount_pico, 40'000'000);
  EXPECT_EQ(charges[3].amount_pico, 0);
}

TEST(RatingTest, WhatCannotBeRatedIsAnErrorAndNeverAWrongNumber) {
  EXPECT_TRUE(absl::IsOutOfRange(Rate(kStandard, "m", 1, {.output = INT64_MAX}, None).status()));
  EXPECT_TRUE(absl::IsNotFound(Rate({}, "m", 1, {.output = 1}, None).status()));
  std::vector<PriceLine> lines = kStandard;
  lines[0].mode = TierMode::kGraduated;
  EXPECT_TRUE(absl::IsOutOfRange(Rate(lines, "m", 1, {.input = -1}, None).status()));
  EXPECT_TRUE(absl::IsOutOfRange(Rate(lines, "m", 1, {.input = 1}, [](int) { return kUnitsMax; }).status()));
}

PriceLine Line(TierMode mode, std::vector<Tier> tiers, int64_t package_size = 0) {
  PriceLine line = FlatLine("*", TokenClass::kOutput, 0);
  line.mode = mode;
  line.tiers = std::move(tiers);
  line.package_size = package_size;
  return line;
}

TEST(RatingTest, APeriodsAmountFollowsTheModeOfItsLine) {
  const PriceLine flat = Line(TierMode::kFlat, {{0, 7}});
  const PriceLine graduated = Line(TierMode::kGraduated, {{0, 10}, {100, 5}, {1000, 1}});
  const PriceLine volume = Line(TierMode::kVolume, {{0, 10}, {100, 5}, {1000, 1}});
  const PriceLine package = Line(TierMode::kPackage, {{0, 2}}, 50);
  const struct {
    const PriceLine& line;
    int64_t quantity;
    int64_t amount;
  } rows[] = {{flat, 3, 21},           {graduated, 0, 0},       {graduated, 100, 1000}, {graduated, 101, 1005},
              {graduated, 1000, 5500}, {graduated, 1001, 5501}, {volume, 100, 1000},    {volume, 101, 505},
              {volume, 1000, 5000},    {volume, 1001, 1001},    {package, 0, 0},        {package, 1, 100},
              {package, 50, 100},      {package, 51, 200}};
  for (const auto& row : rows) {
    EXPECT_TRUE(AmountOf(row.line, row.quantity) == row.amount) << TierModeName(row.line.mode) << " " << row.quantity;
  }
}

TEST(RatingTest, RequestsAddUpToTheAmountOfTheirPeriodInAnyOrder) {
  std::mt19937_64 random(3);
  for (const PriceLine& output :
       {Line(TierMode::kGraduated, {{0, 11}, {90, 5}, {400, 2}}), Line(TierMode::kVolume, {{0, 11}, {90, 5}, {400, 2}}),
        Line(TierMode::kPackage, {{0, 3}}, 70)}) {
    std::vector<PriceLine> lines = kStandard;
    lines[2] = output;
    std::vector<int64_t> used(50);
    for (int64_t& quantity : used) quantity = static_cast<int64_t>(random() % 30);
    for (int order = 0; order < 5; ++order) {
      std::shuffle(used.begin(), used.end(), random);
      int64_t before = 0;
      __int128 sum = 0;
      for (const int64_t quantity : used) {
        const auto charges = Rate(lines, "m", 1, {.output = quantity}, [&](int) { return before; });
        ASSERT_TRUE(charges.ok());
        for (const Charge& charge : *charges) sum += charge.amount_pico;
        before += quantity;
      }
      EXPECT_TRUE(sum == AmountOf(output, before));
    }
  }
}

TEST(RatingTest, WhatIsBeyondTheAllowanceIsCharged) {
  EXPECT_EQ(BeyondAllowance(0, 3'000'000, 5), 0);
  EXPECT_EQ(BeyondAllowance(3'000'000, 3'000'000, 5), 1'000'000);
  EXPECT_EQ(BeyondAllowance(6'000'000, 3'000'000, 5), 3'000'000);
  EXPECT_EQ(BeyondAllowance(6'000'000, -3'000'000, 5), -1'000'000);  // a correction frees what the allowance takes
  EXPECT_EQ(BeyondAllowance(0, 7, 0), 7);
}

TEST(RatingTest, PostedMicroAndResidueAlwaysEqualWhatWasRated) {
  std::mt19937_64 random(5);
  int64_t residue = 0;
  __int128 rated = 0, posted = 0;
  for (int i = 0; i < 100'000; ++i) {
    const auto pico = static_cast<int64_t>(random() % 3'000'000) - (i % 7 == 0 ? 2'000'000 : 0);
    rated += pico;
    posted += PostableMicro(pico, &residue);
    ASSERT_LT(std::abs(residue), 1'000'000);
    ASSERT_TRUE(posted * 1'000'000 + residue == rated);
  }
}

TEST(RatingTest, InvoiceLinesRoundHalfAwayFromZero) {
  const struct {
    int64_t pico;
    int64_t cents;
  } rows[] = {{0, 0},
              {4'999'999'999, 0},
              {5'000'000'000, 1},
              {-5'000'000'000, -1},
              {-4'999'999'999, 0},
              {14'999'999'999, 1},
              {15'000'000'000, 2},
              {INT64_MAX, 922'337'204}};
  for (const auto& row : rows) EXPECT_EQ(RoundToMinor(row.pico, 2), row.cents) << row.pico;
  EXPECT_EQ(RoundToMinor(1'500'000'000'000, 0), 2);
}

}  // namespace
}  // namespace gantry::billing
