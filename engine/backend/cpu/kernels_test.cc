#include "engine/backend/cpu/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "engine/base/thread_pool.h"

namespace gantry::engine::cpu {
namespace {

std::vector<const Kernels*> Available() {
  std::vector<const Kernels*> kernels = {&ScalarKernels()};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) kernels.push_back(&Avx2Kernels());
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    kernels.push_back(&Avx512Kernels());
  }
  return kernels;
}

// Every path, any number of rows at once: the bits of the scalar path row by row, and those within the stated bound.
TEST(KernelsTest, MatMulHasTheSameBitsOnEveryPathAndForAnyNumberOfRows) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (int64_t columns : {1, 15, 16, 17, 64, 100, 255, 1024}) {
    for (const PlainType type : {PlainType::kBF16, PlainType::kF16, PlainType::kF32}) {
      constexpr int kRows = 13, kCount = 11;
      std::vector<uint16_t> w16(kRows * columns);
      std::vector<float> w32(kRows * columns);
      for (size_t i = 0; i < w16.size(); ++i) {
        const float value = normal(random);
        w16[i] = type == PlainType::kF16 ? FloatToF16(value) : FloatToBf16(value);
        w32[i] = type == PlainType::kF16 ? F16ToFloat(w16[i]) : Bf16ToFloat(w16[i]);
      }
      const int64_t stride = PaddedTo16(columns);
      std::vector<float> x(kCount * stride);
      std::vector<const float*> xs;
      for (int i = 0; i < kCount; ++i) {
        for (int64_t j = 0; j < columns; ++j) x[i * stride + j] = normal(random);
        xs.push_back(&x[i * stride]);
      }
      const bool wide = type == PlainType::kF32;
      const WeightView view{wide ? static_cast<const void*>(w32.data()) : w16.data(), kRows, columns, type};
      std::vector<float> expected(kCount * kRows);
      for (int i = 0; i < kCount; ++i) {
        float* y = &expected[i * kRows];
        for (int r = 0; r < kRows; ++r) ScalarKernels().matmul(view, r, r + 1, &xs[i], 1, &y);
        for (int r = 0; r < kRows; ++r) {
          double exact = 0, magnitude = 0;
          for (int64_t j = 0; j < columns; ++j) {
            const double term = static_cast<double>(w32[r * columns + j]) * x[i * stride + j];
            exact += term;
            magnitude += std::abs(term);
          }
          ASSERT_LE(std::abs(y[r] - exact), (columns / 16.0 + 5) * 0x1p-24 * magnitude + 1e-30);
        }
      }
      for (const Kernels* kernels : Available()) {
        for (int count : {1, 2, 3, 5, 7, 11}) {
          std::vector<float> out(kCount * kRows, -1);
          std::vector<float*> ys;
          for (int i = 0; i < kCount; ++i) ys.push_back(&out[i * kRows]);
          kernels->matmul(view, 0, kRows, xs.data(), count, ys.data());
          for (int i = 0; i < count * kRows; ++i) {
            ASSERT_EQ(out[i], expected[i]) << kernels->name << " columns " << columns << " rows at once " << count;
          }
        }
      }
    }
  }
}

TEST(KernelsTest, DeltaSlabHasTheSameBitsOnEveryPathAloneOrInPairs) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> data(64 * 64);
  for (float& value : data) value = normal(random);
  const std::vector<float> decay = {0.9f, 0.5f, 0.99f, 1.0f, 0.1f, 0.7f}, beta = {0.5f, 0.1f, 0.9f, 0.3f, 0.2f, 1.0f};
  for (const int key_dim : {32, 30}) {
    std::vector<std::vector<float>> results;
    for (const Kernels* kernels : Available()) {
      for (const int slabs : {1, 2}) {
        const int size = key_dim * 16;
        std::vector<float> state(data.begin(), data.begin() + 2 * size), out(32 * 6);
        for (int s = 0; s < 2; s += slabs) {
          kernels->delta_slab({state.data() + s * size, slabs, key_dim, 6, data.data() + 100, data.data() + 900, 40,
                               data.data() + 2000 + 16 * s, 32, decay.data(), beta.data(), 1, out.data() + 16 * s, 32});
        }
        out.insert(out.end(), state.begin(), state.end());
        results.push_back(out);
      }
    }
    for (const auto& result : results) EXPECT_EQ(result, results[0]);
  }
}

TEST(ThreadPoolTest, EveryIndexRunsOnceForAnyNumberOfThreads) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int count : {0, 1, 2, 7, 1000}) {
      std::vector<int> runs(count);
      pool.ParallelFor(count, [&](int64_t i, int) { ++runs[i]; });
      EXPECT_EQ(runs, std::vector<int>(count, 1));
    }
  }
  EXPECT_GE(UsableThreads(), 1);
}

}  // namespace
}  // namespace gantry::engine::cpu
