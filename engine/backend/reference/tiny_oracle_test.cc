// A random model of a few thousand weights, made here by the same generator as tests/data/oracles/tiny_ref.py, which
// computed tiny_golden.json in float64 without any library.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <list>
#include <nlohmann/json.hpp>

#include "engine/backend/golden_test_util.h"
#include "engine/backend/reference/reference_blocks.h"
#include "engine/model/rope.h"

namespace gantry::engine {
namespace {

constexpr int kVocab = 64, kHidden = 32, kLayers = 4, kInterval = 4;
constexpr int kExperts = 8, kWidth = 16;

class TinyModelMaker {
 public:
  std::shared_ptr<const Model> Make() {
    auto model = std::make_shared<Model>();
    AttentionSpec attention{.query_heads = 4,
                            .kv_heads = 2,
                            .head_dim = 16,
                            .output_gate = true,
                            .qk_norm = true,
                            .rope = PlainRope(8, 1e7),
                            .score_scale = 0.25f};
    GatedDeltaNetSpec net{.key_heads = 2, .value_heads = 4, .key_dim = 8, .value_dim = 8, .conv_kernel = 4};
    MixtureOfExpertsSpec moe{
        .experts = kExperts, .experts_per_token = 2, .width = kWidth, .shared_width = kWidth, .shared_gate = true};
    ModelSpec& spec = model->spec;
    spec.hidden = kHidden;
    spec.vocab_rows = kVocab;
    spec.max_context = 64;

    const double s = 1 / std::sqrt(kHidden);
    model->embedding = Mat(kVocab, kHidden, 1.0);
    model->final_norm = Norm(kHidden);
    model->head = Mat(kVocab, kHidden, s);
    for (int i = 0; i < kLayers; ++i) {
      LayerWeights layer;
      layer.mixer_norm = Norm(kHidden);
      layer.ffn_norm = Norm(kHidden);
      const bool full = (i + 1) % kInterval == 0;
      if (full) {
        layer.mixer = Attention(attention);
      } else {
        layer.mixer = DeltaNet(net);
      }
      layer.ffn = Experts();
      model->layers.push_back(std::move(layer));
      spec.layers.push_back(full ? LayerSpec{attention, moe} : LayerSpec{net, moe});
    }
    MtpWeights mtp;
    mtp.embedding_norm = Norm(kHidden);
    mtp.hidden_norm = Norm(kHidden);
    mtp.fc = Mat(kHidden, 2 * kHidden, 1 / std::sqrt(2.0 * kHidden));
    mtp.layer.mixer_norm = Norm(kHidden);
    mtp.layer.ffn_norm = Norm(kHidden);
    mtp.layer.mixer = Attention(attention);
    mtp.layer.ffn = Experts();
    mtp.final_norm = Norm(kHidden);
    model->mtp = std::move(mtp);
    spec.mtp = LayerSpec{attention, moe};
    model->storage = std::shared_ptr<const void>(storage_);
    return model;
  }

 private:
  // Uniform in [-1, 1): a 31-bit linear congruential generator, its top 24 bits.
  double Uniform() {
    state_ = (state_ * 1103515245 + 12345) % (uint64_t{1} << 31);
    return static_cast<double>(state_ >> 7) / (1 << 24) * 2 - 1;
  }
  std::vector<float> Vec(int size, double scale, double offset) {
    std::vector<float> values(size);
    for (float& value : values) value = static_cast<float>(offset + Uniform() * scale);
    return values;
  }
  // The oracle applies 1 + w; ours has the one folded in.
  std::vector<float> Norm(int size) { return Vec(size, 0.3, 1.0); }
  Matrix Mat(int rows, int columns, double scale) {
    storage_->push_back(Vec(rows * columns, scale, 0));
    return Matrix{DType::kF32, rows, columns, storage_->back().data()};
  }
  AttentionWeights Attention(const AttentionSpec& spec) {
    const double s = 1 / std::sqrt(kHidden);
    const int query = spec.query_heads * spec.head_dim, kv = spec.kv_heads * spec.head_dim;
    AttentionWeights w;
    w.q = Mat(query * 2, kHidden, s);
    w.k = Mat(kv, kHidden, s);
    w.v = Mat(kv, kHidden, s);
    w.o = Mat(kHidden, query, 1 / std::sqrt(query));
    w.q_norm = Norm(spec.head_dim);
    w.k_norm = Norm(spec.head_dim);
    return w;
  }
  GatedDeltaNetWeights DeltaNet(const GatedDeltaNetSpec& spec) {
    const double s = 1 / std::sqrt(kHidden);
    const int value = spec.value_heads * spec.value_dim;
    GatedDeltaNetWeights w;
    w.qkv = Mat(spec.conv_channels(), kHidden, s);
    w.z = Mat(value, kHidden, s);
    w.b = Mat(spec.value_heads, kHidden, s);
    w.a = Mat(spec.value_heads, kHidden, s);
    w.conv = Vec(spec.conv_channels() * spec.conv_kernel, 0.7, 0);
    w.decay = Vec(spec.value_heads, 1.0, 0.5);
    for (float& a : w.decay) a = -std::exp(a);
    w.dt_bias = Vec(spec.value_heads, 0.5, -0.5);
    w.norm = Vec(spec.value_dim, 0.3, 1.0);
    w.out = Mat(kHidden, value, 1 / std::sqrt(value));
    return w;
  }
  MixtureOfExpertsWeights Experts() {
    const double s = 1 / std::sqrt(kHidden), down = 1 / std::sqrt(kWidth);
    MixtureOfExpertsWeights w;
    w.router = Mat(kExperts, kHidden, 2 * s);
    w.experts.resize(kExperts);
    for (SwiGluWeights& expert : w.experts) {
      expert.gate = Mat(kWidth, kHidden, s);  // fused [gate | up] in the oracle: same order of draws
      expert.up = Mat(kWidth, kHidden, s);
    }
    for (SwiGluWeights& expert : w.experts) expert.down = Mat(kHidden, kWidth, down);
    SwiGluWeights shared;
    shared.gate = Mat(kWidth, kHidden, s);
    shared.up = Mat(kWidth, kHidden, s);
    shared.down = Mat(kHidden, kWidth, down);
    w.shared = shared;
    w.shared_gate = Mat(1, kHidden, s);
    return w;
  }

  uint64_t state_ = 12345;
  std::shared_ptr<std::list<std::vector<float>>> storage_ = std::make_shared<std::list<std::vector<float>>>();
};

TEST(TinyOracleTest, LogitsMtpLogitsAndDraftsEqualTheIndependentReference) {
  const auto golden =
      nlohmann::json::parse(std::ifstream(std::string(GANTRY_SOURCE_DIR) + "/tests/data/oracles/tiny_golden.json"));
  const auto model = TinyModelMaker().Make();
  auto blocks = MakeReferenceBlocks(model, TestLimits()).value();
  SequenceRunner runner(*blocks);
  const std::vector<TokenId> ids = golden["tokens"];
  std::vector<float> hidden(ids.size() * kHidden), logits(ids.size() * kVocab);
  runner.Append(ids, 0, hidden.data(), logits.data());
  std::vector<float> expected;
  for (const auto& row : golden["logits"]) expected.insert(expected.end(), row.begin(), row.end());
  const std::vector<float> compared(logits.end() - expected.size(), logits.end());
  EXPECT_LE(MaxDifference(compared, expected), 2e-3);
  EXPECT_EQ(ArgMax(&logits[logits.size() - kVocab], kVocab), golden["argmax_next"]);

  std::vector<TokenId> next(ids.begin() + 1, ids.end());
  next.push_back(golden["argmax_next"]);
  std::vector<float> m(ids.size() * kHidden), mtp_logits(ids.size() * kVocab);
  runner.AppendMtp(0, next, hidden.data(), 0, m.data(), mtp_logits.data());
  const std::vector<float> first(mtp_logits.end() - kVocab, mtp_logits.end());
  EXPECT_LE(MaxDifference(first, golden["mtp_logits_1"]), 2e-3);
  const TokenId draft = ArgMax(first.data(), kVocab);
  EXPECT_EQ(draft, golden["mtp_draft_1"]);
  std::vector<float> second(kVocab);
  runner.AppendMtp(static_cast<int>(ids.size()), {&draft, 1}, &m[m.size() - kHidden], 0, nullptr, second.data());
  EXPECT_LE(MaxDifference(second, golden["mtp_logits_2"]), 2e-3);
  EXPECT_EQ(ArgMax(second.data(), kVocab), golden["mtp_draft_2"]);
}

}  // namespace
}  // namespace gantry::engine
