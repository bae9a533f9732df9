#include "billing/document/columns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gantry::document {
namespace {

using ::testing::DoubleNear;
using ::testing::Pointwise;

void ExpectWidths(const std::vector<ColumnWish>& wishes, double available, const std::vector<double>& widths) {
  EXPECT_THAT(ColumnWidths(wishes, available, 50), Pointwise(DoubleNear(1e-9), widths));
}

TEST(ColumnWidths, WhatIsLeftOverGoesTwiceToWords) {
  ExpectWidths({{100}, {40, true}, {60, true}}, 240, {100 + 20, 40 + 10, 60 + 10});
}

TEST(ColumnWidths, TheWidestWordsGiveWayBeforeAnyFigures) {
  ExpectWidths({{300}, {80}, {70, true}}, 250, {100, 80, 70});
  ExpectWidths({{300}, {200}, {50, true}}, 250, {100, 100, 50});
}

TEST(ColumnWidths, FiguresGiveWayOnlyWhenNothingElseIsLeft) {
  EXPECT_TRUE(FiguresFit({{300}, {200, true}}, 250, 50));
  EXPECT_FALSE(FiguresFit({{300}, {220, true}}, 250, 50));
  ExpectWidths({{300}, {220, true}}, 250, {125, 125});
  EXPECT_TRUE(FiguresFit({{20}, {220, true}}, 250, 50)) << "words narrower than the least";
}

}  // namespace
}  // namespace gantry::document
