// Products of every weight type at 1, 8 and 512 activation rows, held against what this machine reads and multiplies.
// usage: cpu_benchmark [THREADS [TYPE]]
//
// Every figure is the best of many short passes, roofline and products taken in turn: on a shared machine that is the
// only figure that repeats. One row streams from memory (more weights than any cache holds); many rows stay in it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "engine/backend/cpu/machine.h"
#include "engine/backend/cpu/step.h"
#include "engine/backend/cpu/weights.h"

namespace gantry::engine::cpu {
namespace {

constexpr int64_t kColumns = 1024;
constexpr int64_t kRowsStreamed = 128 << 10, kRowsCached = 512;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Random bits; the half and single floats among them are made small so that nothing overflows on the way.
std::vector<uint8_t> RandomRows(DType type, int64_t rows) {
  std::mt19937 random(1);
  std::vector<uint8_t> bytes(RowBytes(type, kColumns) * rows);
  for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    const uint32_t bits = random() & 0x3f7f3f7f;
    std::copy_n(reinterpret_cast<const uint8_t*>(&bits), 4, &bytes[i]);
  }
  return bytes;
}

struct Shape {
  int count;     // activation rows
  int64_t rows;  // weight rows
  int passes;
};

// Seconds of the best pass.
double Best(Step& step, const Weight& weight, const Shape& shape) {
  Rows x;
  x.Resize(shape.count, kColumns);
  x.Require(weight.activations(), kColumns);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (int i = 0; i < shape.count; ++i) {
    for (int64_t c = 0; c < kColumns; ++c) x.row(i)[c] = normal(random);
    x.Convert(i, step.kernels);
  }
  Rows y;
  y.Resize(shape.count, weight.rows);
  double best = 1e9;
  for (int pass = 0; pass < shape.passes; ++pass) {
    const double start = Seconds();
    step.MatMul({{weight, x, y.pointers()}}, shape.count);
    best = std::min(best, Seconds() - start);
  }
  return best;
}

int Run(int threads, const std::string& only) {
  const auto kernels = ChooseKernels();
  if (!kernels.has_value()) {
    std::fprintf(stderr, "cpu_benchmark: GANTRY_CPU_ISA names a path that this machine lacks\n");
    return 1;
  }
  Step step(*kernels, threads);
  double bandwidth = 0, peak = 0;
  const auto roofline = [&] {
    bandwidth = std::max(bandwidth, MeasureReadBandwidth(step.pool).bytes_per_s);
    peak = std::max(peak, MeasureInt8Peak(step.pool));
  };
  roofline();
  struct Result {
    double bytes_per_s, macs_per_s;
  };
  std::vector<DType> types;
  for (const DType type : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,
                           DType::kBF16, DType::kF32}) {
    if (only.empty() || only == InfoOf(type).name) types.push_back(type);
  }
  constexpr Shape kShapes[] = {{1, kRowsStreamed, 20}, {8, kRowsCached, 400}, {512, kRowsCached, 40}};
  std::vector<Result> results;
  for (const DType type : types) {
    for (const Shape& shape : kShapes) {
      const int64_t rows = std::min<int64_t>(shape.rows, (int64_t{96} << 20) / RowBytes(type, kColumns));
      const std::vector<uint8_t> bytes = RandomRows(type, rows);
      WeightStore store(&step.pool);
      const Weight weight = store.Add({type, rows, kColumns, bytes.data()});
      const double seconds = Best(step, weight, shape);
      results.push_back(
          {static_cast<double>(store.bytes()) / seconds, static_cast<double>(rows * kColumns) * shape.count / seconds});
    }
    roofline();
  }
  std::printf("%s, %d threads: reads %.1f GB/s, int8 %.0f GMAC/s\n", kernels->ints->name, step.pool.threads(),
              bandwidth / 1e9, peak / 1e9);
  std::printf("%-6s %5s %10s %10s %12s %12s\n", "type", "rows", "GB/s", "GMAC/s", "% bandwidth", "% int8 peak");
  const Result* result = results.data();
  for (const DType type : types) {
    for (const Shape& shape : kShapes) {
      std::printf("%-6s %5d %10.1f %10.1f %11.0f%% %11.0f%%\n", InfoOf(type).name, shape.count,
                  result->bytes_per_s / 1e9, result->macs_per_s / 1e9, 100 * result->bytes_per_s / bandwidth,
                  100 * result->macs_per_s / peak);
      ++result;
    }
  }
  return 0;
}

}  // namespace
}  // namespace gantry::engine::cpu

int main(int argc, char** argv) {
  return gantry::engine::cpu::Run(argc > 1 ? std::atoi(argv[1]) : 0, argc > 2 ? argv[2] : "");
}
