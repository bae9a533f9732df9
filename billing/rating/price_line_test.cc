#include "billing/rating/price_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;
using Lines = std::vector<PriceLine>;

Lines Standard() {
  return {FlatLine("*", TokenClass::kInput, 200'000), FlatLine("*", TokenClass::kCachedInput, 50'000),
          FlatLine("*", TokenClass::kOutput, 800'000), FlatLine("*", TokenClass::kRequest, 0)};
}

TEST(PriceLineTest, GlobsMatchWholeNames) {
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

TEST(PriceLineTest, TheFirstLineWhoseModelAndContextMatchIsTheOne) {
  Lines lines = {FlatLine("qwen3.5-*", TokenClass::kOutput, 5), FlatLine("qwen*", TokenClass::kOutput, 7),
                 FlatLine("qwen*", TokenClass::kOutput, 9)};
  lines[1].context_to = 200'000;
  lines[2].context_from = 200'000;
  for (const PriceLine& line : Standard()) lines.push_back(line);
  ASSERT_TRUE(ValidatePriceLines(lines).ok()) << ValidatePriceLines(lines);
  const struct {
    const char* model;
    int64_t context;
    int line;
  } rows[] = {
      {"qwen3.5-122b", 300'000, 0}, {"qwen2", 0, 1}, {"qwen2", 199'999, 1}, {"qwen2", 200'000, 2}, {"demo", 1, 5}};
  for (const auto& row : rows) {
    EXPECT_EQ(LineFor(lines, row.model, row.context, TokenClass::kOutput).value(), row.line) << row.model;
  }
  EXPECT_TRUE(absl::IsNotFound(LineFor({}, "demo", 1, TokenClass::kOutput).status()));
}

TEST(PriceLineTest, PlansThatLeaveARequestWithoutOneCertainPriceAreRefused) {
  const struct {
    const char* message;
    std::function<void(Lines&)> change;
  } rows[] = {
      {"no price line `*` for request", [](Lines& l) { l.pop_back(); }},
      {"expected 1 to 1000 price lines", [](Lines& l) { l.clear(); }},
      {"price line 1: expected a price in", [](Lines& l) { l[1].tiers[0].price_micro_per_m = -1; }},
      {"price line 0: expected a model glob", [](Lines& l) { l[0].model_glob = ""; }},
      {"price line 4: `demo` comes after line 2",
       [](Lines& l) { l.push_back(FlatLine("demo", TokenClass::kOutput, 1)); }},
      {"contexts of output for `*` overlap at 0", [](Lines& l) { l.push_back(FlatLine("*", TokenClass::kOutput, 1)); }},
      {"contexts of output for `*` end at 100", [](Lines& l) { l[2].context_to = 100; }},
      {"contexts of output for `*` leave a gap at 100",
       [](Lines& l) {
         l[2].context_to = 100;
         l.push_back(FlatLine("*", TokenClass::kOutput, 1));
         l.back().context_from = 101;
       }},
      {"contexts of output for `*` overlap at 99",
       [](Lines& l) {
         l[2].context_to = 100;
         l.push_back(FlatLine("*", TokenClass::kOutput, 1));
         l.back().context_from = 99;
       }},
      {"contexts are [from, to)", [](Lines& l) { l[0].context_from = 5, l[0].context_to = 5; }},
      {"a flat line has one tier, found 2",
       [](Lines& l) {
         l[0].tiers.push_back({10, 1});
       }},
      {"tiers start at 0",
       [](Lines& l) {
         l[0].mode = TierMode::kGraduated;
         l[0].tiers = {{1, 5}};
       }},
      {"tiers start at 0 and ascend",
       [](Lines& l) {
         l[0].mode = TierMode::kVolume;
         l[0].tiers = {{0, 5}, {10, 4}, {10, 3}};
       }},
      {"package_size: expected 1..", [](Lines& l) { l[0].mode = TierMode::kPackage; }},
      {"package_size: expected 0 of a flat line", [](Lines& l) { l[0].package_size = 5; }},
  };
  EXPECT_TRUE(ValidatePriceLines(Standard()).ok());
  for (const auto& row : rows) {
    Lines lines = Standard();
    row.change(lines);
    const absl::Status status = ValidatePriceLines(lines);
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message));
  }
}

TEST(PriceLineTest, AMarkupIsResolvedIntoWholePricesRoundedUp) {
  Lines lines = Standard();
  lines[0].tiers[0].price_micro_per_m = 333;
  const Lines marked = MarkedUp(lines, 150'000).value();
  EXPECT_EQ(marked[0].tiers[0].price_micro_per_m, 383);  // 382.95
  EXPECT_EQ(marked[2].tiers[0].price_micro_per_m, 920'000);
  EXPECT_EQ(marked[3].tiers[0].price_micro_per_m, 0);
  EXPECT_EQ(MarkedUp(lines, -1'000'000).value()[2].tiers[0].price_micro_per_m, 0);
  EXPECT_FALSE(MarkedUp(lines, -1'000'001).ok());
  lines[0].tiers[0].price_micro_per_m = kPriceMaxMicroPerM;
  EXPECT_FALSE(MarkedUp(lines, 1).ok());
}

}  // namespace
}  // namespace gantry::billing
