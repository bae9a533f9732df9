#include "services/cli/plan_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gantry::cli {
namespace {

using ::testing::HasSubstr;

TEST(PlanFile, TheExampleIsTakenAsItSays) {
  const auto plan = ParsePlanFile(ExamplePlanFile(), "plan.toml");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->plan(), "partners");
  EXPECT_EQ(plan->commitment_micro(), 500'000'000);
  EXPECT_EQ(plan->allowance_micro(), 10'000'000);
  ASSERT_EQ(plan->lines_size(), 6);
  EXPECT_EQ(plan->lines(0).mode(), v1::TIER_MODE_GRADUATED);
  ASSERT_EQ(plan->lines(0).tiers_size(), 2);
  EXPECT_EQ(plan->lines(0).tiers(1).from(), 100'000'000u);
  EXPECT_EQ(plan->lines(0).tiers(1).price_micro_per_m(), 1'600'000);
  EXPECT_EQ(plan->lines(2).context_to(), 200'000u);
  EXPECT_EQ(plan->lines(5).token_class(), v1::TOKEN_CLASS_REQUEST);
}

TEST(PlanFile, ErrorsNameTheLineAndWhatWasExpected) {
  const struct {
    const char* text;
    const char* error;
  } rows[] = {
      {"currency = 'EUR'", "`plan` is missing"},
      {"plan = 'a'\nprice = '1'", "p.toml, line 2: `price` is not known here; expected one of plan, currency"},
      {"plan = 'a'\n[[line]]\nclass = 'tokens'", "line 3: class: expected one of input, cached_input, output, request"},
      {"plan = 'a'\n[[line]]\nclass = 'input'\nprice = 0.26",
       "line 4: price: expected text; amounts stand between quotes"},
      {"plan = 'a'\n[[line]]\nclass = 'input'\ncontext_to = -1", "context_to: expected a whole number, 0 or more"},
      {"plan = 'a'\nvalid_from = 'soon'", "valid_from: expected a time such as 2026-12-01"},
      {"plan = ", "p.toml, line 1"},
  };
  for (const auto& row : rows) {
    const auto plan = ParsePlanFile(row.text, "p.toml");
    EXPECT_THAT(std::string(plan.status().message()), HasSubstr(row.error)) << row.text;
  }
}

TEST(PlanFile, PercentAndTimes) {
  EXPECT_EQ(ParsePercentPpm("12.5").value(), 125'000);
  EXPECT_EQ(ParsePercentPpm("-5").value(), -50'000);
  EXPECT_EQ(ParsePercentPpm("0").value(), 0);
  EXPECT_FALSE(ParsePercentPpm("0.00001").ok());
  EXPECT_FALSE(ParsePercentPpm("much").ok());
  EXPECT_EQ(ParseTimeUtc("1970-01-02").value(), 86'400'000'000);
  EXPECT_EQ(ParseTimeUtc("1970-01-01T00:00:01.5Z").value(), 1'500'000);
}

}  // namespace
}  // namespace gantry::cli
