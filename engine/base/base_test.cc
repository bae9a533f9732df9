#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/aligned_buffer.h"
#include "engine/base/mapped_file.h"
#include "engine/base/numeric.h"

namespace gantry::engine {
namespace {

using ::testing::HasSubstr;

// Tests of several build folders may run at once.
std::string TempPath(const char* name) {
  return absl::StrCat(testing::TempDir(), "/gantry_", getpid(), "_", name);
}

TEST(NumericTest, EveryStoredHalfSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if (std::isnan(F16ToFloat(half))) {
      EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(F16ToFloat(half))))) << bits;
    } else {
      EXPECT_EQ(FloatToF16(F16ToFloat(half)), half) << bits;
    }
    if (std::isnan(Bf16ToFloat(half))) {
      EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(Bf16ToFloat(half))))) << bits;
    } else {
      EXPECT_EQ(FloatToBf16(Bf16ToFloat(half)), half) << bits;
    }
  }
}

TEST(NumericTest, RoundingGoesToTheNearestAndTiesToEven) {
  const struct {
    float value;
    float f16, bf16;
  } rows[] = {
      {1.0f + 0x1p-11f, 1.0f, 1.0f},                         // tie in f16, even below
      {1.0f + 0x1.8p-10f, 1.0f + 0x1p-9f, 1.0f},             // tie in f16, even above
      {1.0f + 0x1p-8f, 1.0f + 0x1p-8f, 1.0f},                // tie in bf16, even below
      {1.0f + 0x1.8p-7f, 1.0f + 0x1.8p-7f, 1.0f + 0x1p-6f},  // tie in bf16, even above
      {0x1p-25f, 0.0f, 0x1p-25f},                            // tie between zero and the smallest subnormal
      {0x1.8p-24f, 0x1p-23f, 0x1.8p-24f},                    // tie among subnormals
      {65504.0f, 65504.0f, 65536.0f},                        // the largest f16
      {65519.0f, 65504.0f, 65536.0f},                        // below half a step above it
      {65520.0f, std::numeric_limits<float>::infinity(), 65536.0f},
      {-0.0f, -0.0f, -0.0f},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(F16ToFloat(FloatToF16(row.value)), row.f16) << row.value;
    EXPECT_EQ(Bf16ToFloat(FloatToBf16(row.value)), row.bf16) << row.value;
    EXPECT_EQ(std::signbit(F16ToFloat(FloatToF16(row.value))), std::signbit(row.value)) << row.value;
  }
}

TEST(AlignedBufferTest, MemoryIsAlignedZeroedAndMovedWithItsOwner) {
  AlignedBuffer<float> buffer(33);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % AlignedBuffer<float>::kAlignment, 0u);
  for (size_t i = 0; i < buffer.size(); ++i) EXPECT_EQ(buffer[i], 0.0f) << i;
  const float* data = buffer.data();
  const AlignedBuffer<float> moved = std::move(buffer);
  EXPECT_EQ(moved.data(), data);
  EXPECT_EQ(moved.size(), 33u);
}

TEST(MappedFileTest, FilesThatCannotBeMappedAreRefusedByName) {
  const std::string empty = TempPath("empty");
  std::ofstream(empty).flush();
  const struct {
    std::string path;
    absl::StatusCode code;
    const char* message;
  } rows[] = {
      {"/nonexistent/file", absl::StatusCode::kNotFound, "/nonexistent/file: cannot be opened"},
      {testing::TempDir(), absl::StatusCode::kInvalidArgument, "expected a regular, non-empty file"},
      {empty, absl::StatusCode::kInvalidArgument, "_empty: expected a regular, non-empty file"},
  };
  for (const auto& row : rows) {
    const auto file = MappedFile::Open(row.path);
    EXPECT_EQ(file.status().code(), row.code) << row.path;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(row.message));
  }
  unlink(empty.c_str());
}

TEST(MappedFileTest, SmallFilesAreReadWholeUpToTheirBound) {
  const std::string path = TempPath("small");
  std::ofstream(path) << "12345";
  EXPECT_EQ(ReadSmallFile(path, 5).value(), "12345");
  const auto refused = ReadSmallFile(path, 4);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("5 bytes, at most 4 are accepted"));
  unlink(path.c_str());
}

}  // namespace
}  // namespace gantry::engine
