// Products with weights of every type a file may hold.
#include "engine/backend/cpu/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "engine/backend/cpu/packed_matrix.h"

namespace gantry::engine::cpu {
namespace {

TEST(WeightsTest, ProductsOfEveryTypeAreThoseOfItsDequantisedRows) {
  constexpr int64_t kRows = 53, kColumns = 512;
  constexpr int kCount = 70;
  ThreadPool pool(1);
  const KernelSet kernels = ChooseKernels().value();
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  for (const DTypeInfo& info : kDTypes) {
    // Bits whose half and single floats are neither huge nor NaN.
    std::vector<uint8_t> bytes(kRows * RowBytes(info.type, kColumns));
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() & 0x3b);
    const Matrix matrix{info.type, kRows, kColumns, bytes.data()};
    // Before the store gives the source's memory back.
    std::vector<float> wide(kRows * kColumns);
    for (int64_t r = 0; r < kRows; ++r) ReadRow(matrix, r, &wide[r * kColumns]);
    WeightStore store(&pool);
    const Weight weight = store.Add(matrix);
    for (int64_t r = 0; weight.form == Weight::Form::kPacked && r < kRows; ++r) {
      std::vector<float> unpacked(kColumns);
      UnpackRow(weight.packed, r, unpacked.data());
      ASSERT_EQ(std::memcmp(unpacked.data(), &wide[r * kColumns], kColumns * sizeof(float)), 0)
          << info.name << " " << r;
    }
    EXPECT_LE(store.bytes(), static_cast<int64_t>(bytes.size()) * 64 / kRows + 64) << info.name << " grows in memory";
    Rows x, y;
    x.Resize(kCount, kColumns);
    y.Resize(kCount, kRows);
    x.Require(weight.activations(), kColumns);
    for (int i = 0; i < kCount; ++i) {
      for (int64_t c = 0; c < kColumns; ++c) x.row(i)[c] = normal(random);
      x.Convert(i, kernels);
    }
    Multiply(kernels, weight, 0, 16, ActivationRows::Of(x, weight, 0), kCount, y.pointers());
    Multiply(kernels, weight, 16, kRows, ActivationRows::Of(x, weight, 0), kCount, y.pointers());
    for (int64_t r = 0; r < kRows; ++r) {
      const float* row = &wide[r * kColumns];
      for (int i = 0; i < kCount; ++i) {
        double exact = 0, magnitude = 0, largest = 0;
        for (int64_t c = 0; c < kColumns; ++c) {
          exact += static_cast<double>(row[c]) * x.row(i)[c];
          magnitude += std::abs(static_cast<double>(row[c]) * x.row(i)[c]);
          largest += std::abs(row[c]);
        }
        // Activations in int8 are off by half a step of a 127th of the largest, those in bfloat16 by 2^-9 of
        // themselves.
        double steps = 5.0 / 254 * largest;
        if (weight.activations() == ActivationForm::kFloat) steps = 0;
        if (weight.activations() == ActivationForm::kBF16) steps = 0x1p-9 * magnitude;
        ASSERT_LE(std::abs(y.row(i)[r] - exact), steps + kColumns * 0x1p-24 * magnitude) << info.name;
      }
    }
  }
}

}  // namespace
}  // namespace gantry::engine::cpu
