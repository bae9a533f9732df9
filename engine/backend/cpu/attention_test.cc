// Attention of one layer against the reference backend, over shapes that fill no vector, page borders, span borders and
// far positions, for each KV type; and its bits over instruction sets, threads and cuts.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <deque>
#include <random>

#include "engine/backend/cpu/cpu_blocks.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/model/rope.h"

namespace gantry::engine {
namespace {

constexpr int kHidden = 48;

struct Shape {
  int query_heads, kv_heads, head_dim, rotary_dim;
  bool gate = false, norm = false, interleaved = false;
};
constexpr Shape kShapes[] = {{4, 2, 16, 16},
                             {9, 3, 64, 64, false, true},
                             {5, 1, 40, 24, true, true},
                             {3, 3, 20, 20, false, false, true},
                             {8, 2, 256, 64, true, true}};

// A model of one attention layer and its weights.
struct OneLayer {
  explicit OneLayer(const Shape& shape) {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    const auto matrix = [&](int64_t rows, int64_t columns) {
      std::vector<float>& data = storage.emplace_back(rows * columns);
      for (float& value : data) value = normal(random) / std::sqrt(static_cast<float>(columns));
      return Matrix{DType::kF32, rows, columns, data.data()};
    };
    const int64_t query = int64_t{shape.query_heads} * shape.head_dim, kv = int64_t{shape.kv_heads} * shape.head_dim;
    AttentionSpec spec{shape.query_heads,
                       shape.kv_heads,
                       shape.head_dim,
                       shape.gate,
                       shape.norm,
                       PlainRope(shape.rotary_dim, 1e6),
                       1.0f / std::sqrt(static_cast<float>(shape.head_dim))};
    spec.rope.interleaved = shape.interleaved;
    AttentionWeights attention{matrix(query * (shape.gate ? 2 : 1), kHidden),
                               matrix(kv, kHidden),
                               matrix(kv, kHidden),
                               matrix(kHidden, query),
                               {},
                               {}};
    if (shape.norm) {
      attention.q_norm.assign(shape.head_dim, 1.5f);
      attention.k_norm.assign(shape.head_dim, 0.75f);
    }
    model = std::make_shared<Model>();
    model->spec.hidden = kHidden;
    model->spec.vocab_rows = 16;
    model->spec.layers.push_back({spec, DenseSpec{16}});
    model->embedding = model->head = matrix(16, kHidden);
    model->final_norm.assign(kHidden, 1.0f);
    LayerWeights layer;
    layer.mixer_norm.assign(kHidden, 1.0f);
    layer.ffn_norm.assign(kHidden, 1.0f);
    layer.mixer = attention;
    layer.ffn = SwiGluWeights{matrix(16, kHidden), matrix(16, kHidden), matrix(kHidden, 16)};
    model->layers.push_back(layer);
  }
  std::deque<std::vector<float>> storage;
  std::shared_ptr<Model> model;
};

// Rows at consecutive positions; page i of the sequence is pages(i) of the cache.
struct Stretch {
  int position, rows;
};

// The layer's output for the stretches, one after the other, on a sequence whose first page stands everywhere before
// the last 18 pages: a long past for little work.
constexpr int kOwnPages = 18;
std::vector<float> Outputs(Blocks* blocks, const std::vector<Stretch>& stretches, int cut) {
  std::vector<float> outputs;
  for (const Stretch& stretch : stretches) {
    std::mt19937 random(stretch.position + 1);
    std::normal_distribution<float> normal;
    std::vector<float> x(stretch.rows * kHidden);
    for (float& value : x) value = normal(random);
    const int pages = (stretch.position + stretch.rows + kKvPageTokens - 1) / kKvPageTokens;
    std::vector<KvPage> table(pages, 0);
    for (int i = 0; i < pages && i < kOwnPages; ++i) {
      const int page = pages - 1 - i;
      table[page] = page % kOwnPages;
    }
    for (int first = 0; first < stretch.rows; first += cut) {
      const int rows = std::min(cut, stretch.rows - first);
      const std::vector<TokenId> tokens(rows, 0);
      std::vector<int32_t> positions(rows);
      for (int t = 0; t < rows; ++t) positions[t] = stretch.position + first + t;
      const RowGroup group{.rows = rows, .position = positions[0], .pages = table};
      Residual io = blocks->residual();
      std::copy_n(&x[first * kHidden], rows * kHidden, io.x);
      std::fill_n(io.delta, rows * kHidden, 0.0f);
      blocks->Mixer(0, {tokens, positions, {&group, 1}}, io);
      outputs.insert(outputs.end(), io.delta, io.delta + rows * kHidden);
    }
  }
  return outputs;
}

const std::vector<Stretch> kStretches = {{0, 70}, {70, 1}, {71, 450}, {521, 3}, {524, 117}, {1023, 2}, {200000, 1}};
const std::vector<Stretch> kShortStretches = {{0, 70}, {70, 1}, {71, 450}, {521, 3}, {1020, 9}, {4000, 3}};

BlocksLimits Limits(KvType type, int threads) {
  return {.max_rows = 520,
          .max_head_rows = 1,
          .kv_pages = kOwnPages,
          .state_slots = 1,
          .threads = threads,
          .kv_type = type};
}

double Tolerance(KvType type) {
  return type == KvType::kF32 ? 2e-6 : type == KvType::kF16 ? 2e-3 : 3e-2;
}

TEST(AttentionTest, EqualsTheReferenceForEveryShapeAndKvTypeAtNearAndFarPositions) {
  for (const Shape& shape : kShapes) {
    const OneLayer layer(shape);
    auto reference = MakeReferenceBlocks(layer.model, Limits(KvType::kF32, 1)).value();
    const std::vector<float> expected = Outputs(reference.get(), kStretches, 520);
    float largest = 0;
    for (const float value : expected) largest = std::max(largest, std::abs(value));
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kInt8}) {
      auto blocks = MakeCpuBlocks(layer.model, Limits(type, 2)).value();
      const std::vector<float> got = Outputs(blocks.get(), kStretches, 520);
      ASSERT_EQ(got.size(), expected.size());
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_LE(std::abs(got[i] - expected[i]), Tolerance(type) * largest)
            << shape.head_dim << ", KV " << static_cast<int>(type) << ", row " << i / kHidden;
      }
    }
  }
}

TEST(AttentionTest, BitsDoNotDependOnInstructionSetThreadsOrCuts) {
  for (const Shape& shape : kShapes) {
    const OneLayer layer(shape);
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kInt8}) {
      const auto run = [&](const char* isa, int threads, int cut) {
        if (isa != nullptr) setenv("GANTRY_CPU_ISA", isa, 1);
        auto blocks = MakeCpuBlocks(layer.model, Limits(type, threads));
        unsetenv("GANTRY_CPU_ISA");
        return blocks.ok() ? Outputs(blocks->get(), kShortStretches, cut) : std::vector<float>();
      };
      const std::vector<float> whole = run("scalar", 1, 520);
      EXPECT_TRUE(run(nullptr, 1, 520) == whole);
      EXPECT_TRUE(run(nullptr, 3, 64) == whole);
      EXPECT_TRUE(run(nullptr, 2, 7) == whole);
      for (const char* isa : {"avx2", "avx512"}) {
        const std::vector<float> other = run(isa, 2, 100);
        EXPECT_TRUE(other.empty() || other == whole) << isa;
      }
    }
  }
}

}  // namespace
}  // namespace gantry::engine
