#include "services/cli/table.h"

#include <gtest/gtest.h>

namespace gantry::cli {
namespace {

TEST(TableTest, NamesStandLeftAndFiguresRight) {
  Table table({"NAME", ">TOKENS", "STATE"});
  table.Add({"demo", "1,234", "agreed"});
  table.Add({"a-longer-name", "7", "-"});
  EXPECT_EQ(table.Render(),
            "NAME           TOKENS  STATE\n"
            "demo            1,234  agreed\n"
            "a-longer-name       7  -\n");
  EXPECT_EQ(table.rows(), 2u);
}

TEST(TableTest, WidthsCountCharactersNotBytes) {
  Table table({"NAME", "STATE"});
  table.Add({"Bücher", "x"});
  table.Add({"Buecher", "y"});
  EXPECT_EQ(table.Render(),
            "NAME     STATE\n"
            "Bücher   x\n"
            "Buecher  y\n");
}

TEST(FormatTest, NumbersHaveSeparators) {
  const struct {
    int64_t value;
    const char* text;
  } cases[] = {{0, "0"}, {999, "999"}, {1000, "1,000"}, {123456, "123,456"}, {1234567, "1,234,567"}};
  for (const auto& c : cases) EXPECT_EQ(WithSeparators(c.value), c.text);
}

TEST(FormatTest, TimesAreUtc) {
  EXPECT_EQ(FormatTime(0), "-");
  EXPECT_EQ(FormatTimeJson(0), "");
  EXPECT_EQ(FormatTime(1'784'035'845'000'123), "2026-07-14 13:30:45");
  EXPECT_EQ(FormatTimeJson(1'784'035'845'000'123), "2026-07-14T13:30:45.000123Z");
}

}  // namespace
}  // namespace gantry::cli
