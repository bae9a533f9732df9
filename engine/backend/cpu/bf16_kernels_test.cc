#include "engine/backend/cpu/bf16_kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "engine/backend/cpu/packed_matrix.h"
#include "engine/base/aligned_buffer.h"
#include "engine/base/numeric.h"

namespace gantry::engine::cpu {
namespace {

// What this machine runs; the first is the oracle.
std::vector<const Bf16Kernels*> Paths() {
  std::vector<const Bf16Kernels*> paths = {&ScalarBf16Kernels()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) paths.push_back(&Avx2Bf16Kernels());
  if (__builtin_cpu_supports("avx512f")) paths.push_back(&Avx512Bf16Kernels());
  if (__builtin_cpu_supports("avx512bf16")) paths.push_back(&Avx512DotBf16Kernels());
#endif
  return paths;
}

struct Case {
  Case(int rows, int64_t columns, int count, const std::vector<float>& weights, const std::vector<float>& activations)
      : packed(PackedBytes(PackedType::kBF16, rows, columns)), w(weights.size()), x(activations.size()) {
    ScalarBf16Kernels().round(weights.data(), static_cast<int64_t>(weights.size()), w.data());
    ScalarBf16Kernels().round(activations.data(), static_cast<int64_t>(activations.size()), x.data());
    view = {packed.data(), rows, columns, PackedType::kBF16};
    PackPanels(PackedType::kBF16, reinterpret_cast<const uint8_t*>(w.data()), rows, columns, 0, view.panels(),
               packed.data());
    for (int i = 0; i < count; ++i) in.push_back({&x[i * columns]});
  }
  // [count][rows]; rows in two calls when there are several panels.
  std::vector<float> Multiply(const Bf16Kernels& kernels) const {
    std::vector<float> out(in.size() * view.rows, -1.0f);
    std::vector<float*> y;
    for (size_t i = 0; i < in.size(); ++i) y.push_back(&out[i * view.rows]);
    const int64_t first = view.panels() > 1 ? 1 : 0;
    kernels.matmul(view, 0, first, in.data(), static_cast<int>(in.size()), y.data());
    kernels.matmul(view, first, view.panels(), in.data(), static_cast<int>(in.size()), y.data());
    return out;
  }

  AlignedBuffer<uint8_t> packed;
  std::vector<uint16_t> w, x;
  PackedView view;
  std::vector<ActivationRow> in;
};

std::vector<float> RandomFloats(int64_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(random);
  return values;
}

void ExpectEqualBits(const std::vector<float>& got, const std::vector<float>& want, const char* path) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want[i])) << path << " at " << i;
  }
}

TEST(Bf16KernelsTest, ProductsAreWithinTheContractAndHaveTheSameBitsOnEveryPath) {
  std::mt19937 random(3);
  for (const int64_t columns : {2, 6, 34, 256, 1024, 4098}) {
    for (const int rows : {1, 16, 53, 200}) {
      for (const int count : {1, 2, 5, 6, 7, 13}) {
        const Case shape(rows, columns, count, RandomFloats(rows * columns, random),
                         RandomFloats(count * columns, random));
        const std::vector<float> expected = shape.Multiply(ScalarBf16Kernels());
        for (int i = 0; i < count; ++i) {
          for (int r = 0; r < rows; ++r) {
            double exact = 0, magnitude = 0;
            for (int64_t c = 0; c < columns; ++c) {
              const double product =
                  static_cast<double>(Bf16ToFloat(shape.w[r * columns + c])) * Bf16ToFloat(shape.x[i * columns + c]);
              exact += product;
              magnitude += std::abs(product);
            }
            ASSERT_LE(std::abs(expected[i * rows + r] - exact), static_cast<double>(columns) * 0x1p-24 * magnitude);
          }
        }
        for (const Bf16Kernels* path : Paths()) ExpectEqualBits(shape.Multiply(*path), expected, path->name);
      }
    }
  }
}

TEST(Bf16KernelsTest, TinyNumbersAreZeroOnEveryPath) {
  // Products around the smallest normal number, 2^-126, and inputs below it.
  std::mt19937 random(4);
  std::vector<float> weights = RandomFloats(int64_t{16} * 64, random), activations = RandomFloats(64, random);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] *= i % 3 == 0 ? 0x1p-130f : 0x1p-63f;
  for (size_t i = 0; i < activations.size(); ++i) activations[i] *= i % 5 == 0 ? 0x1p-128f : 0x1p-63f;
  const Case tiny(16, 64, 1, weights, activations);
  const std::vector<float> expected = tiny.Multiply(ScalarBf16Kernels());
  for (const float y : expected) EXPECT_TRUE(y == 0 || std::isnormal(y)) << y;
  for (const Bf16Kernels* path : Paths()) ExpectEqualBits(tiny.Multiply(*path), expected, path->name);
  volatile float denormal = std::numeric_limits<float>::denorm_min();
  EXPECT_NE(denormal * 2.0f, 0.0f) << "the caller's arithmetic keeps its denormals";
}

TEST(Bf16KernelsTest, NotANumberReachesItsRowAndNoOther) {
  std::mt19937 random(6);
  std::vector<float> activations = RandomFloats(int64_t{3} * 64, random);
  activations[64 + 7] = std::numeric_limits<float>::quiet_NaN();
  const Case spoilt(20, 64, 3, RandomFloats(int64_t{20} * 64, random), activations);
  for (const Bf16Kernels* path : Paths()) {
    const std::vector<float> y = spoilt.Multiply(*path);
    for (int i = 0; i < 3; ++i) {
      for (int r = 0; r < 20; ++r) EXPECT_EQ(std::isnan(y[i * 20 + r]), i == 1) << path->name;
    }
  }
}

TEST(Bf16KernelsTest, RoundsToNearestEvenAndKeepsNotANumber) {
  const struct {
    uint32_t bits;
    uint16_t rounded;
  } kCases[] = {
      {0x3f800000, 0x3f80},  // 1
      {0x3f808000, 0x3f80},  // a tie goes to the even one, down
      {0x3f818000, 0x3f82},  // and up
      {0x3f808001, 0x3f81}, {0xbf80ffff, 0xbf81},
      {0x7f7fffff, 0x7f80},  // the largest float: infinity
      {0x7f800000, 0x7f80}, {0xff800000, 0xff80},
      {0x7f800001, 0x7fc0},  // not a number, though its upper half is infinity's
      {0x00000000, 0x0000}, {0x80000000, 0x8000},
  };
  for (const Bf16Kernels* path : Paths()) {
    for (const auto& c : kCases) {
      const float x = std::bit_cast<float>(c.bits);
      uint16_t out = 0;
      path->round(&x, 1, &out);
      EXPECT_EQ(out, c.rounded) << path->name << " " << std::hex << c.bits;
    }
  }
}

}  // namespace
}  // namespace gantry::engine::cpu
