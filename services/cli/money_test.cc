#include "services/cli/money.h"

#include <gtest/gtest.h>

#include <limits>

namespace gantry::cli {
namespace {

TEST(MoneyTest, DecimalTextBecomesExactMicroUnits) {
  const struct {
    const char* text;
    int64_t micro;
  } rows[] = {{"1", 1'000'000},
              {"12.5", 12'500'000},
              {"0.000001", 1},
              {"1000000000", 1'000'000'000'000'000},
              {"007.10", 7'100'000}};
  for (const auto& row : rows) EXPECT_EQ(ParseMicro(row.text).value(), row.micro) << row.text;
}

TEST(MoneyTest, AmountsThatAreNoPositiveDecimalAreRefusedByName) {
  for (const char* text :
       {"", "0", "0.0", "-1", "+1", "1.", ".5", "1,50", "1e3", "0.0000001", "1000000001", " 1", "1 ", "nan"}) {
    const auto parsed = ParseMicro(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(MoneyTest, AmountsPrintWithAtLeastTwoDecimalsAndLoseNothing) {
  EXPECT_EQ(FormatMicro(12'500'000), "12.50");
  EXPECT_EQ(FormatMicro(0), "0.00");
  EXPECT_EQ(FormatMicro(1), "0.000001");
  EXPECT_EQ(FormatMicro(-1'230'000), "-1.23");
  EXPECT_EQ(FormatPico(1'234'500'000), "0.0012345");
  EXPECT_EQ(FormatPico(std::numeric_limits<int64_t>::min()), "-9223372.036854775808");
}

}  // namespace
}  // namespace gantry::cli
