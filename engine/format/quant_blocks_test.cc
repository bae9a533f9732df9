#include "engine/format/quant_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"

namespace gantry::engine {
namespace {

// One block of each type and its values, computed with the formats' original decoders.
TEST(QuantBlocksTest, GoldenBlocksOfAllFourteenTypesDecodeExactly) {
  const auto golden =
      nlohmann::json::parse(std::ifstream(std::string(GANTRY_SOURCE_DIR) + "/tests/data/oracles/quant_golden.json"));
  int types = 0;
  for (const auto& [name, block] : golden.items()) {
    SCOPED_TRACE(name);
    const std::optional<DType> type = DTypeNamed(absl::AsciiStrToUpper(name));
    ASSERT_TRUE(type.has_value());
    EXPECT_EQ(InfoOf(*type).block_bytes, block["block_bytes"]);
    EXPECT_EQ(InfoOf(*type).block_elements, block["n_elem"]);
    const std::string bytes = absl::HexStringToBytes(block["hex"].get<std::string>());
    const auto expected = block["values"].get<std::vector<double>>();
    // Two blocks in a row, at an odd address.
    const std::string row = "x" + bytes + bytes;
    std::vector<float> values(2 * expected.size());
    DecodeRow(*type, row.data() + 1, static_cast<int64_t>(values.size()), values.data());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(values[i], static_cast<float>(expected[i % expected.size()])) << "element " << i;
    }
    ++types;
  }
  EXPECT_EQ(types, 14);
}

TEST(QuantBlocksTest, EachTypeHasOneNameAndOneId) {
  for (const DTypeInfo& info : kDTypes) {
    EXPECT_EQ(DTypeNamed(info.name), info.type);
    EXPECT_EQ(DTypeOfGgmlId(info.ggml_id), info.type);
    EXPECT_EQ(RowBytes(info.type, 3 * info.block_elements), 3 * info.block_bytes) << info.name;
  }
  EXPECT_EQ(DTypeNamed("Q9_9"), std::nullopt);
  EXPECT_EQ(DTypeOfGgmlId(16), std::nullopt) << "IQ2_XXS needs tables that this build does not have";
}

// What rounding to nearest can cost in one block: half a step of the elements, and for the K types what rounding a
// run's scale and minimum to their own steps adds.
double ErrorBound(DType type, const float* x) {
  const int n = InfoOf(type).block_elements;
  const auto [min, max] = std::minmax_element(x, x + n);
  const double range = static_cast<double>(*max) - *min;
  const double extreme = std::max(std::abs(*min), std::abs(*max));
  const double half = 0.5, f16 = 0x1p-11;  // relative error of a scale stored as float16
  switch (type) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return extreme * f16;
    case DType::kBF16:
      return extreme * 0x1p-8;
    case DType::kQ8_0:
      return extreme / 127 * (half + 127 * f16);
    case DType::kQ4_0:
      // The opposite of the extreme lies a whole step beyond the last level.
      return extreme / 8 * (1 + 8 * f16);
    case DType::kQ5_0:
      return extreme / 16 * (1 + 16 * f16);
    case DType::kQ4_1:
      return range / 15 * (half + 15 * f16) + extreme * f16;
    case DType::kQ4_K:
    case DType::kQ5_K: {
      const int levels = type == DType::kQ4_K ? 15 : 31;
      const double reach = std::max(range, extreme);  // of the widest run, at most
      return reach / levels * half + reach / 63 * half + extreme / 63 * half + 2 * reach * f16;
    }
    case DType::kQ6_K:
      return extreme / 32 + 32 * extreme / 32 / 127 * half + extreme * f16;
    default:
      ADD_FAILURE() << DTypeName(type);
      return 0;
  }
}

TEST(QuantBlocksTest, DecodingWhatWasEncodedStaysWithinTheRoundingBound) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto distributions = {
      +[](float z, int) { return z; },
      +[](float z, int) { return 3.0f + 0.1f * z; },          // all of one sign
      +[](float z, int) { return -3.0f + 0.1f * z; },         //
      +[](float z, int i) { return i == 17 ? 50.0f : z; },    // an outlier
      +[](float z, int i) { return i % 2 ? 1e-3f * z : z; },  // scales apart
      +[](float, int) { return 0.0f; },                       //
      +[](float z, int) { return 1e-9f * z; },                // below what float16 scales can hold
  };
  for (const DTypeInfo& info : kDTypes) {
    if (!CanEncode(info.type)) continue;
    SCOPED_TRACE(info.name);
    const int block = 256;
    for (const auto& distribution : distributions) {
      for (int round = 0; round < 50; ++round) {
        std::vector<float> x(2 * block), y(x.size());
        for (size_t i = 0; i < x.size(); ++i) x[i] = distribution(normal(random), static_cast<int>(i));
        std::string row(RowBytes(info.type, static_cast<int64_t>(x.size())), '\xff');
        EncodeRow(info.type, x.data(), static_cast<int64_t>(x.size()), row.data());
        DecodeRow(info.type, row.data(), static_cast<int64_t>(x.size()), y.data());
        for (size_t begin = 0; begin < x.size(); begin += info.block_elements) {
          // Below 2^-24 a float16 scale holds nothing; an element of that size may be lost.
          const double bound = ErrorBound(info.type, &x[begin]) * 1.0001 + 0x1p-24 * 32;
          for (int i = 0; i < info.block_elements; ++i) {
            ASSERT_LE(std::abs(static_cast<double>(x[begin + i]) - y[begin + i]), bound) << x[begin + i];
          }
        }
      }
    }
  }
}

TEST(QuantBlocksTest, StoredValuesSurviveEncodingAgain) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ5_0}) {
    std::vector<float> x(256), once(256), twice(256);
    for (float& value : x) value = normal(random);
    std::string row(RowBytes(type, 256), '\0');
    EncodeRow(type, x.data(), 256, row.data());
    DecodeRow(type, row.data(), 256, once.data());
    EncodeRow(type, once.data(), 256, row.data());
    DecodeRow(type, row.data(), 256, twice.data());
    EXPECT_EQ(once, twice) << DTypeName(type);
  }
}

}  // namespace
}  // namespace gantry::engine
