#include "engine/backend/cpu/int8_kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "engine/backend/cpu/packed_matrix.h"
#include "engine/base/aligned_buffer.h"
#include "engine/format/quant_blocks.h"

namespace gantry::engine::cpu {
namespace {

std::vector<const Int8Kernels*> Available() {
  std::vector<const Int8Kernels*> kernels = {&ScalarInt8Kernels()};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    kernels.push_back(&Avx2Int8Kernels());
  }
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni")) {
    kernels.push_back(&Avx512Int8Kernels());
  }
  return kernels;
}

struct Type {
  PackedType packed;
  DType dtype;
};
constexpr Type kTypes[] = {{PackedType::kQ8_0, DType::kQ8_0}, {PackedType::kQ4_0, DType::kQ4_0},
                           {PackedType::kQ4_1, DType::kQ4_1}, {PackedType::kQ4_K, DType::kQ4_K},
                           {PackedType::kQ5_K, DType::kQ5_K}, {PackedType::kQ6_K, DType::kQ6_K}};

// Random bits everywhere but in the half floats: every integer a file may hold, also those that encoders avoid.
std::vector<uint8_t> RandomMatrix(const Type& type, int64_t rows, int64_t columns, std::mt19937& random) {
  const DTypeInfo& info = InfoOf(type.dtype);
  std::vector<uint8_t> bytes(rows * RowBytes(type.dtype, columns));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  for (size_t block = 0; block < bytes.size(); block += info.block_bytes) {
    const auto half = [&](int offset) {
      const uint16_t bits = FloatToF16(std::uniform_real_distribution<float>(-0.1f, 0.1f)(random));
      std::memcpy(&bytes[block + offset], &bits, sizeof(bits));
    };
    half(type.packed == PackedType::kQ6_K ? 208 : 0);
    if (type.packed == PackedType::kQ4_1 || type.packed == PackedType::kQ4_K || type.packed == PackedType::kQ5_K)
      half(2);
  }
  return bytes;
}

ActivationForm InBlocksOf(int block) {
  return block == 32 ? ActivationForm::kInt8By32 : ActivationForm::kInt8By256;
}

struct Activations {
  Activations(int count, int64_t columns, int block, std::mt19937& random)
      : x(count * columns),
        row_bytes(ActivationBytes(InBlocksOf(block), columns)),
        records(count * row_bytes),
        block_(block) {
    std::normal_distribution<float> normal;
    for (float& value : x) value = normal(random);
    for (int i = 0; i < count; ++i) {
      ScalarInt8Kernels().quantize(&x[i * columns], columns, block, &records[i * row_bytes]);
      rows.push_back({&records[i * row_bytes]});
    }
  }
  float scale(int row, int64_t column) const {
    const void* blocks = rows[row].data;
    return block_ == 32 ? static_cast<const ActivationBlock32*>(blocks)[column / 32].scale
                        : static_cast<const ActivationBlock256*>(blocks)[column / 256].scale;
  }
  int q(int row, int64_t column) const {
    const void* blocks = rows[row].data;
    return block_ == 32 ? static_cast<const ActivationBlock32*>(blocks)[column / 32].q[column % 32]
                        : static_cast<const ActivationBlock256*>(blocks)[column / 256].q[column % 256];
  }
  std::vector<float> x;
  int64_t row_bytes;
  std::vector<uint8_t> records;
  std::vector<ActivationRow> rows;

 private:
  int block_;
};

TEST(Int8KernelsTest, ProductsAreWithinTheContractAndHaveTheSameBitsOnEveryPath) {
  std::mt19937 random(5);
  for (const Type& type : kTypes) {
    const int block = BlockElements(type.packed);
    for (int64_t columns : {int64_t{block}, int64_t{3} * block, int64_t{1024}}) {
      constexpr int kRows = 53, kCount = 14;
      const std::vector<uint8_t> file = RandomMatrix(type, kRows, columns, random);
      AlignedBuffer<uint8_t> packed(PackedBytes(type.packed, kRows, columns));
      PackPanels(type.packed, file.data(), kRows, columns, 0, 4, packed.data());
      const PackedView view{packed.data(), kRows, columns, type.packed};
      const Activations in(kCount, columns, block, random);

      std::vector<float> expected(kCount * kRows);
      std::vector<float*> out;
      for (int i = 0; i < kCount; ++i) out.push_back(&expected[i * kRows]);
      for (int i = 0; i < kCount; ++i) ScalarInt8Kernels().matmul(view, 0, 4, &in.rows[i], 1, &out[i], nullptr);
      std::vector<float> weights(columns);
      for (int r = 0; r < kRows; ++r) {
        DecodeRow(type.dtype, file.data() + r * RowBytes(type.dtype, columns), columns, weights.data());
        for (int i = 0; i < kCount; ++i) {
          // Where a minimum is taken off, the two parts may be larger than what is left.
          double exact = 0, magnitude = 0;
          for (int64_t c = 0; c < columns; ++c) {
            const double x = static_cast<double>(in.scale(i, c)) * in.q(i, c);
            exact += weights[c] * x;
            magnitude += (std::abs(weights[c]) + 6.4) * std::abs(x);
          }
          // The sum that Q4_1's minimum multiplies has 11 bits of its own.
          const double rounding = type.packed == PackedType::kQ4_1 ? 0x1p-10 : 0;
          ASSERT_LE(std::abs(expected[i * kRows + r] - exact),
                    ((static_cast<double>(columns) / block + 2) * 0x1p-23 + rounding) * magnitude)
              << "type " << InfoOf(type.dtype).name << " columns " << columns << " row " << r;
        }
      }
      for (const Int8Kernels* kernels : Available()) {
        for (int count = 1; count <= kCount; ++count) {
          std::vector<float> got(kCount * kRows, -1);
          std::vector<float*> y;
          for (int i = 0; i < count; ++i) y.push_back(&got[i * kRows]);
          kernels->matmul(view, 0, 1, in.rows.data(), count, y.data(), nullptr);
          kernels->matmul(view, 1, 4, in.rows.data(), count, y.data(), nullptr);
          ASSERT_EQ(std::memcmp(got.data(), expected.data(), sizeof(float) * count * kRows), 0)
              << kernels->name << " " << InfoOf(type.dtype).name << " count " << count;
        }
      }
    }
  }
}

TEST(Int8KernelsTest, QuantisedActivationsAreTheNearestSteps) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  for (int block : {32, 256}) {
    constexpr int64_t kColumns = 1024;
    std::vector<float> x(kColumns);
    for (float& value : x) value = normal(random) * std::exp2(static_cast<float>(random() % 40) - 20.0f);
    std::fill_n(x.begin(), block, 0.0f);
    x[2 * block] = 127.0f;  // a tie below: 0.5 steps
    for (int i = 1; i < block; ++i) x[2 * block + i] = static_cast<float>(i % 100) + 0.5f;
    std::vector<uint8_t> records(ActivationBytes(InBlocksOf(block), kColumns));
    ScalarInt8Kernels().quantize(x.data(), kColumns, block, records.data());
    const auto* by32 = reinterpret_cast<const ActivationBlock32*>(records.data());
    const auto* by256 = reinterpret_cast<const ActivationBlock256*>(records.data());
    const auto scale = [&](int64_t i) { return block == 32 ? by32[i / 32].scale : by256[i / 256].scale; };
    const auto q = [&](int64_t i) { return block == 32 ? by32[i / 32].q[i % 32] : by256[i / 256].q[i % 256]; };
    EXPECT_EQ(scale(0), 0.0f);
    EXPECT_EQ(q(0), 0);
    EXPECT_EQ(q(2 * block + 1), 2) << "1.5 goes to the even neighbour";
    EXPECT_EQ(q(2 * block + 2), 2) << "2.5 too";
    for (int64_t i = 0; i < kColumns; ++i) {
      // Half a step, and what rounding the scale to 11 bits moves the step itself.
      const float moved = block == 32 ? static_cast<float>(std::abs(q(i))) * 0x1p-11f : 0.0f;
      ASSERT_LE(std::abs(x[i] - scale(i) * q(i)), scale(i) * (0.5005f + moved)) << i;
    }
    for (int64_t i = 0; i < kColumns; i += 32) {
      int sum16[2] = {};
      for (int j = 0; j < 32; ++j) sum16[j / 16] += q(i + j);
      const int sum = sum16[0] + sum16[1];
      if (block == 32) {
        ASSERT_EQ(by32[i / 32].minus_sum_by_8, -8 * sum);
        ASSERT_EQ(by32[i / 32].minus_sum_by_128, -128 * sum);
        const float scaled = scale(i) * static_cast<float>(sum);
        ASSERT_LE(std::abs(by32[i / 32].scaled_sum - scaled), std::abs(scaled) * 0x1p-10f);
        for (const float kept : {scale(i), by32[i / 32].scaled_sum}) {
          ASSERT_EQ(std::bit_cast<uint32_t>(kept) & 0x1fffu, 0u) << "11 significant bits";
        }
      } else {
        ASSERT_EQ(by256[i / 256].minus_sum32[i % 256 / 32], -sum);
        ASSERT_EQ(by256[i / 256].minus_sum16_by_32[i % 256 / 16], -32 * sum16[0]);
        ASSERT_EQ(by256[i / 256].minus_sum16_by_32[i % 256 / 16 + 1], -32 * sum16[1]);
      }
    }
    for (const Int8Kernels* kernels : Available()) {
      std::vector<uint8_t> others(records.size());
      kernels->quantize(x.data(), kColumns, block, others.data());
      EXPECT_EQ(records, others) << kernels->name;
    }
  }
}

TEST(Int8KernelsTest, WhatIsNotFinitePoisonsItsRowAlone) {
  std::mt19937 random(7);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const Type& type : kTypes) {
      const int block = BlockElements(type.packed);
      const std::vector<uint8_t> file = RandomMatrix(type, 16, block, random);
      AlignedBuffer<uint8_t> packed(PackedBytes(type.packed, 16, block));
      PackPanels(type.packed, file.data(), 16, block, 0, 1, packed.data());
      Activations in(2, block, block, random);
      in.x[block + 5] = bad;
      for (const Int8Kernels* kernels : Available()) {
        kernels->quantize(&in.x[block], block, block, &in.records[in.row_bytes]);
        std::vector<float> y(32);
        float* out[] = {y.data(), y.data() + 16};
        kernels->matmul({packed.data(), 16, block, type.packed}, 0, 1, in.rows.data(), 2, out, nullptr);
        for (int r = 0; r < 16; ++r) {
          EXPECT_TRUE(std::isfinite(y[r])) << kernels->name;
          EXPECT_TRUE(std::isnan(y[16 + r])) << kernels->name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace gantry::engine::cpu
