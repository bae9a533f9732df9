#include "billing/document/figures.h"

#include <gtest/gtest.h>

namespace gantry::document {
namespace {

constexpr __int128 kMost = (static_cast<__int128>(INT64_MAX) + 1) * INT64_MAX;

TEST(Figures, AreGroupedAndRoundedHalfAwayFromZero) {
  struct Case {
    __int128 value;
    int scale, digits;
    const char* text;
  };
  const Case cases[] = {
      {0, 6, 2, "0.00"},
      {0, 0, 0, "0"},
      {1'234'567'890, 6, 2, "1,234.57"},
      {999'995'000, 6, 2, "1,000.00"},
      {5'000, 6, 2, "0.01"},
      {4'999, 6, 2, "0.00"},
      {-5'000, 6, 2, "-0.01"},
      {-4'999, 6, 2, "0.00"},
      {-1'234'500, 6, 0, "-1"},
      {-1'500'000, 6, 0, "-2"},
      {123, 0, 0, "123"},
      {1'234, 0, 0, "1,234"},
      {-1'234'567, 0, 0, "-1,234,567"},
      {INT64_MIN, 0, 0, "-9,223,372,036,854,775,808"},
      {12'345, 2, 2, "123.45"},
      {7, 3, 3, "0.007"},
      {kMost, 18, 2, "85,070,591,730,234,615,856.62"},
  };
  for (const Case& c : cases) EXPECT_EQ(Figure(c.value, c.scale, c.digits), c.text);
}

TEST(Figures, ExactOnesShowAllTheirDecimals) {
  EXPECT_EQ(Exact(3'625, 6, 2), "0.003625");
  EXPECT_EQ(Exact(800'000, 6, 2), "0.80");
  EXPECT_EQ(Exact(1'234'500'000, 6, 2), "1,234.50");
  EXPECT_EQ(Exact(0, 12, 2), "0.00");
  EXPECT_EQ(Exact(-1, 12, 2), "-0.000000000001");
}

TEST(Figures, PlainOnesAreForMachines) {
  EXPECT_EQ(Plain(1'234'567'890, 6), "1234.567890");
  EXPECT_EQ(Plain(-5, 2), "-0.05");
  EXPECT_EQ(Plain(1'234, 0), "1234");
  EXPECT_EQ(Plain(0, 3), "0.000");
  EXPECT_EQ(Plain(INT64_MIN, 3), "-9223372036854775.808");
}

TEST(Figures, QuotientsRoundHalfAwayFromZero) {
  struct Case {
    int n, d, quotient;
  };
  for (const Case& c : {Case{7, 2, 4}, Case{-7, 2, -4}, Case{6, 4, 2}, Case{-6, 4, -2}, Case{5, 3, 2}, Case{4, 3, 1},
                        Case{-4, 3, -1}, Case{0, 9, 0}, Case{1, 2, 1}, Case{-1, 2, -1}, Case{-1, 3, 0}}) {
    EXPECT_EQ(static_cast<int>(RoundedQuotient(c.n, c.d)), c.quotient) << c.n << " / " << c.d;
  }
}

}  // namespace
}  // namespace gantry::document
