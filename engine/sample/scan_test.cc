#include "engine/sample/scan.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

namespace gantry::engine {
namespace {

constexpr int kSizes[] = {1, 2, 15, 16, 17, 31, 1023, 1024, 1025, 2500, 49152};

std::vector<float> RandomRow(int n) {
  std::mt19937 random(static_cast<uint32_t>(n));
  std::normal_distribution<float> normal;
  std::vector<float> row(n);
  for (float& x : row) x = normal(random);
  return row;
}

TEST(ScanTest, TheFirstValueThatIsNotFiniteIsFoundAnywhere) {
  for (const int n : kSizes) {
    std::vector<float> row = RandomRow(n);
    EXPECT_EQ(FirstNotFinite(row.data(), n), n);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      for (const int at : {0, n / 2, n - 1}) {
        std::vector<float> spoilt = row;
        spoilt[at] = bad;
        spoilt[n - 1] = bad;
        EXPECT_EQ(FirstNotFinite(spoilt.data(), n), at) << n;
      }
    }
  }
}

TEST(ScanTest, TheLargestOfAllIsFoundAnywhere) {
  for (const int n : kSizes) {
    for (const int at : {0, n / 3, n / 2, n - 1}) {
      std::vector<float> row = RandomRow(n);
      row[at] = 100;
      EXPECT_EQ(LargestOf(row.data(), n), 100);
      EXPECT_EQ(FirstLargest(row.data(), n), at) << n;
    }
  }
}

TEST(ScanTest, OfEqualsTheFirstIsTheLargest) {
  std::vector<float> row(100, -1.0f);
  row[37] = row[38] = row[99] = 2.0f;
  EXPECT_EQ(FirstLargest(row.data(), 100), 37);
  row[20] = 0.0f, row[37] = row[38] = row[99] = -0.0f;
  row[10] = -0.0f;
  EXPECT_EQ(FirstLargest(row.data(), 100), 10);  // zeros are equal, whatever their sign
}

TEST(ScanTest, MaskedValuesLoseToEveryNumber) {
  std::vector<float> row(64, -std::numeric_limits<float>::infinity());
  row[50] = -3e38f;
  EXPECT_EQ(FirstLargest(row.data(), 64), 50);
}

}  // namespace
}  // namespace gantry::engine
