#include "billing/rating/rating.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

const std::vector<PriceLine> kStandard = {{"*", TokenClass::kInput, 200'000},
                                          {"*", TokenClass::kCachedInput, 50'000},
                                          {"*", TokenClass::kOutput, 800'000},
                                          {"*", TokenClass::kRequest, 0}};

TEST(RatingTest, TokensTimesPriceIsExactInPicoUnits) {
  // 1,000 computed, 200 cached and 50 generated tokens: 0.0002 + 0.00001 + 0.00004 units.
  EXPECT_EQ(Rate(kStandard, "demo", {.input = 1000, .cached_input = 200, .output = 50, .requests = 1}).value(),
            200'000'000 + 10'000'000 + 40'000'000);
}

TEST(RatingTest, FirstMatchingLineOfAClassWins) {
  std::vector<PriceLine> lines = {{"qwen3.5-*", TokenClass::kOutput, 5}, {"qwen*", TokenClass::kOutput, 7}};
  lines.insert(lines.end(), kStandard.begin(), kStandard.end());
  EXPECT_EQ(PriceOf(lines, "qwen3.5-122b", TokenClass::kOutput).value(), 5);
  EXPECT_EQ(PriceOf(lines, "qwen2", TokenClass::kOutput).value(), 7);
  EXPECT_EQ(PriceOf(lines, "demo", TokenClass::kOutput).value(), 800'000);
}

TEST(RatingTest, GlobsMatchWholeNames) {
  const struct {
    const char* glob;
    const char* text;
    bool matches;
  } rows[] = {{"*", "", true},          {"a*c", "abc", true}, {"a*c", "ac", true},
              {"a*c", "abd", false},    {"a?c", "abc", true}, {"a?c", "ac", false},
              {"*a*b*", "xaxbx", true}, {"", "a", false},     {"a**", "abc", true}};
  for (const auto& row : rows) EXPECT_EQ(GlobMatches(row.glob, row.text), row.matches) << row.glob << " " << row.text;
  EXPECT_FALSE(GlobMatches(std::string(100, '*') + "x", std::string(10'000, 'a')));
}

TEST(RatingTest, WhatCannotBeRatedIsAnErrorAndNeverAWrongNumber) {
  EXPECT_EQ(Rate(kStandard, "m", {.input = -1}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Rate(kStandard, "m", {.output = INT64_MAX}).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Rate({}, "m", {.output = 1}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(ValidatePriceLines(kStandard).ok());
  EXPECT_THAT(std::string(ValidatePriceLines({kStandard.begin(), kStandard.end() - 1}).message()),
              HasSubstr("no price line `*` for request"));
  EXPECT_FALSE(ValidatePriceLines({}).ok());
  std::vector<PriceLine> negative = kStandard;
  negative[1].price_micro_per_m = -1;
  EXPECT_THAT(std::string(ValidatePriceLines(negative).message()), HasSubstr("price line 1"));
}

// An independent way: decimal strings multiplied and added digit by digit, as on paper.
std::string Times(const std::string& a, const std::string& b) {
  std::string product(a.size() + b.size(), 0);
  for (size_t i = a.size(); i-- > 0;) {
    int carry = 0;
    for (size_t j = b.size(); j-- > 0 || carry > 0;) {
      const size_t at = i + (j == SIZE_MAX ? 0 : j + 1);
      const int digit = product[at] + carry + (j == SIZE_MAX ? 0 : (a[i] - '0') * (b[j] - '0'));
      product[at] = static_cast<char>(digit % 10);
      carry = digit / 10;
      if (j == SIZE_MAX) break;
    }
  }
  for (char& c : product) c = static_cast<char>(c + '0');
  return product;
}
std::string Plus(std::string a, std::string b) {
  const size_t size = std::max(a.size(), b.size()) + 1;
  a.insert(0, size - a.size(), '0');
  b.insert(0, size - b.size(), '0');
  int carry = 0;
  for (size_t i = size; i-- > 0;) {
    const int digit = a[i] - '0' + b[i] - '0' + carry;
    a[i] = static_cast<char>('0' + digit % 10);
    carry = digit / 10;
  }
  return a;
}
std::string Trimmed(const std::string& digits) {
  const size_t first = digits.find_first_not_of('0');
  return first == std::string::npos ? "0" : digits.substr(first);
}

TEST(RatingTest, HundredThousandRandomCasesEqualPaperArithmetic) {
  std::mt19937_64 random(11);
  const auto draw = [&](int bits) { return static_cast<int64_t>(random() >> (64 - 1 - random() % bits)); };
  int rated = 0, refused = 0;
  for (int i = 0; i < 100'000; ++i) {
    std::vector<PriceLine> lines = kStandard;
    for (PriceLine& line : lines) line.price_micro_per_m = draw(40) % 1'000'000'000'001;
    const Quantities q{.input = draw(40), .cached_input = draw(30), .output = draw(30), .requests = 1};
    std::string expected = "0";
    for (const PriceLine& line : lines) {
      expected = Plus(expected, Times(std::to_string(q.of(line.token_class)), std::to_string(line.price_micro_per_m)));
    }
    expected = Trimmed(expected);
    const auto pico = Rate(lines, "m", q);
    const std::string largest = std::to_string(INT64_MAX);
    const bool fits = expected.size() < largest.size() || (expected.size() == largest.size() && expected <= largest);
    ASSERT_EQ(pico.ok(), fits);
    if (fits) {
      ASSERT_EQ(std::to_string(*pico), expected);
    }
    ++(fits ? rated : refused);
  }
  EXPECT_GT(rated, 10'000);
  EXPECT_GT(refused, 1'000);
}

TEST(RatingTest, PostedMicroAndResidueAlwaysEqualWhatWasRated) {
  std::mt19937_64 random(5);
  int64_t residue = 0;
  __int128 rated = 0, posted = 0;
  for (int i = 0; i < 100'000; ++i) {
    const auto pico = static_cast<int64_t>(random() % 3'000'000);
    rated += pico;
    posted += PostableMicro(pico, &residue);
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
