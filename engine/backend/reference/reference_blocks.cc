#include "engine/backend/reference/reference_blocks.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/forward.h"
#include "engine/base/check.h"
#include "engine/model/rope.h"

namespace gantry::engine {
namespace {

double Sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}
double Silu(double x) {
  return x * Sigmoid(x);
}
double Softplus(double x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}

// y = W x
std::vector<float> MatVec(const Matrix& w, const float* x) {
  std::vector<float> y(w.rows), weights(w.columns);
  for (int64_t row = 0; row < w.rows; ++row) {
    ReadRow(w, row, weights.data());
    double sum = 0;
    for (int64_t column = 0; column < w.columns; ++column) sum += static_cast<double>(weights[column]) * x[column];
    y[row] = static_cast<float>(sum);
  }
  return y;
}

// y = x * rsqrt(mean(x^2) + eps) * w; y may be x.
void RmsNorm(const float* x, const float* w, int size, double eps, float* y) {
  double squares = 0;
  for (int i = 0; i < size; ++i) squares += static_cast<double>(x[i]) * x[i];
  const double scale = 1.0 / std::sqrt(squares / size + eps);
  for (int i = 0; i < size; ++i) y[i] = static_cast<float>(x[i] * scale * w[i]);
}

void Rope(float* head, int position, const RopeSpec& rope) {
  for (int pair = 0; pair < rope.rotary_dim / 2; ++pair) {
    const RopeTurn turn = TurnAt(rope, position, pair);
    float& x = head[FirstOfPair(rope, pair)];
    float& y = head[SecondOfPair(rope, pair)];
    const double a = x, b = y;
    x = static_cast<float>(a * turn.cosine - b * turn.sine);
    y = static_cast<float>(b * turn.cosine + a * turn.sine);
  }
}

std::vector<float> SwiGlu(const SwiGluWeights& weights, const float* x) {
  std::vector<float> gate = MatVec(weights.gate, x);
  const std::vector<float> up = MatVec(weights.up, x);
  for (size_t i = 0; i < gate.size(); ++i) gate[i] = static_cast<float>(Silu(gate[i]) * up[i]);
  return MatVec(weights.down, gate.data());
}

// Indices of the k largest, largest first; ties go to the lower index, NaN is never chosen before a number.
std::vector<int> TopK(const std::vector<float>& values, int k) {
  std::vector<int> chosen;
  std::vector<bool> taken(values.size());
  for (int i = 0; i < k; ++i) {
    int best = -1;
    for (int e = 0; e < static_cast<int>(values.size()); ++e) {
      if (!taken[e] && (best < 0 || std::isnan(values[best]) || values[e] > values[best])) best = e;
    }
    taken[best] = true;
    chosen.push_back(best);
  }
  return chosen;
}

class ReferenceBlocks final : public Blocks {
 public:
  ReferenceBlocks(std::shared_ptr<const Model> model, const BlocksLimits& limits)
      : model_(std::move(model)),
        limits_(limits),
        costs_(ReferenceCacheCosts(model_->spec)),
        numerics_id_("reference/f32") {
    const ModelSpec& spec = model_->spec;
    x_.resize(static_cast<size_t>(limits.max_rows) * spec.hidden);
    delta_.resize(x_.size());
    for (int i = 0; i < spec.total_layers(); ++i) {
      LayerCache cache;
      if (const auto* attention = std::get_if<AttentionSpec>(&spec.layer(i).mixer)) {
        cache.kv_row = attention->kv_heads * attention->head_dim;
        cache.keys.resize(static_cast<size_t>(limits.kv_pages) * kKvPageTokens * cache.kv_row);
        cache.values.resize(cache.keys.size());
      } else {
        const auto& net = std::get<GatedDeltaNetSpec>(spec.layer(i).mixer);
        cache.state_size = static_cast<size_t>(net.value_heads) * net.key_dim * net.value_dim;
        cache.column_size = static_cast<size_t>(net.conv_kernel - 1) * net.conv_channels();
        cache.states.resize(limits.state_slots * cache.state_size);
        cache.columns.resize(limits.state_slots * cache.column_size);
      }
      caches_.push_back(std::move(cache));
    }
  }

  const ModelSpec& spec() const override { return model_->spec; }
  const BlocksLimits& limits() const override { return limits_; }
  CacheCosts costs() const override { return costs_; }
  const std::string& numerics_id() const override { return numerics_id_; }
  Residual residual() override { return {x_.data(), delta_.data()}; }

  void Embed(const StepBatch& batch, Residual io) override {
    GANTRY_CHECK(batch.rows() <= limits_.max_rows, "a batch fits the buffers");
    const int hidden = spec().hidden;
    for (int row = 0; row < batch.rows(); ++row) {
      GANTRY_CHECK(batch.tokens[row] >= 0 && batch.tokens[row] < spec().vocab_rows, "token ids were checked on entry");
      ReadRow(model_->embedding, batch.tokens[row], io.x + static_cast<size_t>(row) * hidden);
      std::fill_n(io.delta + static_cast<size_t>(row) * hidden, hidden, 0.0f);
    }
  }

  void Mixer(int layer, const StepBatch& batch, Residual io) override {
    const LayerWeights& weights = model_->layer(layer);
    for (const RowGroup& group : batch.groups) {
      if (const auto* attention = std::get_if<AttentionSpec>(&spec().layer(layer).mixer)) {
        Attention(*attention, std::get<AttentionWeights>(weights.mixer), weights.mixer_norm, caches_[layer], group, io);
      } else {
        DeltaNet(std::get<GatedDeltaNetSpec>(spec().layer(layer).mixer), std::get<GatedDeltaNetWeights>(weights.mixer),
                 weights.mixer_norm, caches_[layer], group, io);
      }
    }
  }

  void Ffn(int layer, const StepBatch& batch, Residual io) override {
    const LayerWeights& weights = model_->layer(layer);
    caches_[layer].experts_read.clear();
    for (int row = 0; row < batch.rows(); ++row) {
      const std::vector<float> n = AddAndNorm(row, weights.ffn_norm, io);
      std::vector<float> out;
      if (const auto* dense = std::get_if<SwiGluWeights>(&weights.ffn)) {
        out = SwiGlu(*dense, n.data());
      } else {
        const auto& moe = std::get<MixtureOfExpertsSpec>(spec().layer(layer).ffn);
        const auto& mixture = std::get<MixtureOfExpertsWeights>(weights.ffn);
        const std::vector<float> router = MatVec(mixture.router, n.data());
        const std::vector<int> chosen = Choose(moe, router, layer, batch.positions[row]);
        caches_[layer].experts_read.insert(chosen.begin(), chosen.end());
        out = Experts(moe, mixture, router, chosen, n.data());
      }
      SetDelta(row, out, io);
    }
  }

  void Head(HeadOf which, absl::Span<const int> rows_wanted, Residual in, float* hidden, float* logits) override {
    GANTRY_CHECK(which == HeadOf::kTrunk || model_->mtp, "an MTP head is asked of a model that has one");
    const int size = spec().hidden;
    const std::vector<float>& norm = which == HeadOf::kTrunk ? model_->final_norm : model_->mtp->final_norm;
    for (size_t i = 0; i < rows_wanted.size(); ++i) {
      std::vector<float> x(size);
      for (int j = 0; j < size; ++j) {
        const size_t at = static_cast<size_t>(rows_wanted[i]) * size + j;
        x[j] = in.x[at] + in.delta[at];
      }
      float* h = hidden + i * size;
      RmsNorm(x.data(), norm.data(), size, spec().rms_eps, h);
      if (logits == nullptr) continue;
      const std::vector<float> row = MatVec(model_->head, h);
      std::copy(row.begin(), row.end(), logits + i * spec().vocab_rows);
    }
  }

  void MtpInput(const StepBatch& batch, const float* hidden, Residual io) override {
    GANTRY_CHECK(model_->mtp, "MTP input is asked of a model that has an MTP layer");
    GANTRY_CHECK(batch.rows() <= limits_.max_rows, "a batch fits the buffers");
    const int size = spec().hidden;
    const MtpWeights& mtp = *model_->mtp;
    std::vector<float> concat(2 * size);
    for (int row = 0; row < batch.rows(); ++row) {
      ReadRow(model_->embedding, batch.tokens[row], concat.data());
      RmsNorm(concat.data(), mtp.embedding_norm.data(), size, spec().rms_eps, concat.data());
      RmsNorm(hidden + static_cast<size_t>(row) * size, mtp.hidden_norm.data(), size, spec().rms_eps,
              concat.data() + size);
      const std::vector<float> u = MatVec(mtp.fc, concat.data());
      std::copy(u.begin(), u.end(), io.x + static_cast<size_t>(row) * size);
      std::fill_n(io.delta + static_cast<size_t>(row) * size, size, 0.0f);
    }
  }

  void ZeroState(StateSlot slot) override {
    for (LayerCache& cache : caches_) {
      std::fill_n(cache.states.begin() + slot * cache.state_size, cache.state_size, 0.0f);
      std::fill_n(cache.columns.begin() + slot * cache.column_size, cache.column_size, 0.0f);
    }
  }

  void CopyState(StateSlot from, StateSlot to) override {
    for (LayerCache& cache : caches_) {
      std::copy_n(cache.states.begin() + from * cache.state_size, cache.state_size,
                  cache.states.begin() + to * cache.state_size);
      std::copy_n(cache.columns.begin() + from * cache.column_size, cache.column_size,
                  cache.columns.begin() + to * cache.column_size);
    }
  }
  bool RowsAreFinite(Residual in, int first_row, int rows) const override {
    return HostRowsAreFinite(in, spec().hidden, first_row, rows);
  }
  int threads() const override { return 1; }
  void ParallelFor(int count, absl::FunctionRef<void(int index, int thread)> body) override {
    for (int i = 0; i < count; ++i) body(i, 0);
  }
  void ZeroPage(KvPage page) override {
    for (LayerCache& cache : caches_) {
      const size_t size = static_cast<size_t>(kKvPageTokens) * cache.kv_row;
      std::fill_n(cache.keys.begin() + page * size, size, 0.0f);
      std::fill_n(cache.values.begin() + page * size, size, 0.0f);
    }
  }
  void SetRouting(RoutingTape* tape) override { tape_ = tape; }
  int ExpertsRead(int layer) const override { return static_cast<int>(caches_[layer].experts_read.size()); }

 private:
  struct LayerCache {
    std::set<int> experts_read;          // by the last Ffn
    int kv_row = 0;                      // kv_heads * head_dim
    std::vector<float> keys, values;     // [pages, 64, kv_heads, head_dim]; keys after norm and RoPE
    size_t state_size = 0;               // value_heads * key_dim * value_dim
    size_t column_size = 0;              // (conv_kernel - 1) * conv_channels, oldest first
    std::vector<float> states, columns;  // [slots, ...]
  };

  // x += delta; returns the normed x.
  std::vector<float> AddAndNorm(int row, const std::vector<float>& norm, Residual io) const {
    const int size = spec().hidden;
    float* x = io.x + static_cast<size_t>(row) * size;
    const float* delta = io.delta + static_cast<size_t>(row) * size;
    for (int i = 0; i < size; ++i) x[i] += delta[i];
    std::vector<float> n(size);
    RmsNorm(x, norm.data(), size, spec().rms_eps, n.data());
    return n;
  }

  void SetDelta(int row, const std::vector<float>& out, Residual io) const {
    std::copy(out.begin(), out.end(), io.delta + static_cast<size_t>(row) * spec().hidden);
  }

  static float* KvRow(std::vector<float>& cache, int kv_row, const RowGroup& group, int position) {
    const KvPage page = group.pages[position / kKvPageTokens];
    return cache.data() + (static_cast<size_t>(page) * kKvPageTokens + position % kKvPageTokens) * kv_row;
  }

  void Attention(const AttentionSpec& attention, const AttentionWeights& weights, const std::vector<float>& norm,
                 LayerCache& cache, const RowGroup& group, Residual io) {
    const int head_dim = attention.head_dim;
    const int query_stride = head_dim * (attention.output_gate ? 2 : 1);
    const double eps = spec().rms_eps;
    for (int t = 0; t < group.rows; ++t) {
      const int row = group.first_row + t, position = group.position + t;
      const std::vector<float> n = AddAndNorm(row, norm, io);
      std::vector<float> q = MatVec(weights.q, n.data());  // per head: query, then gate
      std::vector<float> k = MatVec(weights.k, n.data());
      const std::vector<float> v = MatVec(weights.v, n.data());
      for (int h = 0; h < attention.kv_heads; ++h) {
        float* head = k.data() + h * head_dim;
        if (attention.qk_norm) RmsNorm(head, weights.k_norm.data(), head_dim, eps, head);
        Rope(head, position, attention.rope);
      }
      std::copy(k.begin(), k.end(), KvRow(cache.keys, cache.kv_row, group, position));
      std::copy(v.begin(), v.end(), KvRow(cache.values, cache.kv_row, group, position));

      std::vector<float> heads(static_cast<size_t>(attention.query_heads) * head_dim);
      for (int h = 0; h < attention.query_heads; ++h) {
        float* query = q.data() + static_cast<size_t>(h) * query_stride;
        if (attention.qk_norm) RmsNorm(query, weights.q_norm.data(), head_dim, eps, query);
        Rope(query, position, attention.rope);
        const int kv_head = h / (attention.query_heads / attention.kv_heads);
        const int first = group.first_key;
        std::vector<double> p(position + 1 - first);
        for (int s = first; s <= position; ++s) {
          const float* key = KvRow(cache.keys, cache.kv_row, group, s) + kv_head * head_dim;
          double dot = 0;
          for (int i = 0; i < head_dim; ++i) dot += static_cast<double>(query[i]) * key[i];
          p[s - first] = dot * attention.score_scale;
        }
        const double max = *std::max_element(p.begin(), p.end());
        double sum = 0;
        for (double& value : p) sum += value = std::exp(value - max);
        std::vector<double> o(head_dim);
        for (int s = first; s <= position; ++s) {
          const float* value = KvRow(cache.values, cache.kv_row, group, s) + kv_head * head_dim;
          for (int i = 0; i < head_dim; ++i) o[i] += p[s - first] / sum * value[i];
        }
        for (int i = 0; i < head_dim; ++i) {
          const double gate = attention.output_gate ? Sigmoid(query[head_dim + i]) : 1.0;
          heads[h * head_dim + i] = static_cast<float>(o[i] * gate);
        }
      }
      SetDelta(row, MatVec(weights.o, heads.data()), io);
    }
  }

  void DeltaNet(const GatedDeltaNetSpec& net, const GatedDeltaNetWeights& weights, const std::vector<float>& norm,
                LayerCache& cache, const RowGroup& group, Residual io) {
    const int dk = net.key_dim, dv = net.value_dim, channels = net.conv_channels(), taps = net.conv_kernel;
    GANTRY_CHECK(group.state_in != kNoStateSlot, "a group in a recurrent layer names the state it continues");
    // Work on copies: one of the output slots may be the input slot.
    std::vector<float> state(cache.states.begin() + group.state_in * cache.state_size,
                             cache.states.begin() + (group.state_in + 1) * cache.state_size);
    std::vector<float> columns(cache.columns.begin() + group.state_in * cache.column_size,
                               cache.columns.begin() + (group.state_in + 1) * cache.column_size);
    for (int t = 0; t < group.rows; ++t) {
      const int row = group.first_row + t;
      const std::vector<float> n = AddAndNorm(row, norm, io);
      const std::vector<float> u = MatVec(weights.qkv, n.data());
      const std::vector<float> z = MatVec(weights.z, n.data());
      const std::vector<float> b = MatVec(weights.b, n.data());
      const std::vector<float> a = MatVec(weights.a, n.data());

      // c[ch] = silu(sum_j w[ch][j] u_{t - taps + 1 + j}[ch]); the last tap meets the current token.
      columns.insert(columns.end(), u.begin(), u.end());
      std::vector<float> c(channels);
      for (int ch = 0; ch < channels; ++ch) {
        double sum = 0;
        for (int j = 0; j < taps; ++j)
          sum += static_cast<double>(weights.conv[ch * taps + j]) * columns[j * channels + ch];
        c[ch] = static_cast<float>(Silu(sum));
      }
      columns.erase(columns.begin(), columns.begin() + channels);

      std::vector<float> heads(static_cast<size_t>(net.value_heads) * dv);
      for (int h = 0; h < net.value_heads; ++h) {
        const int key_head = net.tiled_value_heads ? h % net.key_heads : h / (net.value_heads / net.key_heads);
        const float* q_raw = c.data() + key_head * dk;
        const float* k_raw = c.data() + (net.key_heads + key_head) * dk;
        const float* v = c.data() + 2 * net.key_heads * dk + h * dv;
        double q_squares = 0, k_squares = 0;
        for (int i = 0; i < dk; ++i) {
          q_squares += static_cast<double>(q_raw[i]) * q_raw[i];
          k_squares += static_cast<double>(k_raw[i]) * k_raw[i];
        }
        const double q_scale = 1.0 / std::sqrt(q_squares + 1e-6) / std::sqrt(static_cast<double>(dk));
        const double k_scale = 1.0 / std::sqrt(k_squares + 1e-6);
        const double decay = std::exp(weights.decay[h] * Softplus(static_cast<double>(a[h]) + weights.dt_bias[h]));
        const double beta = Sigmoid(b[h]);

        float* s = state.data() + static_cast<size_t>(h) * dk * dv;  // [dk, dv]
        std::vector<double> o(dv);
        for (int j = 0; j < dv; ++j) {
          double predicted = 0;
          for (int i = 0; i < dk; ++i) {
            s[i * dv + j] = static_cast<float>(s[i * dv + j] * decay);
            predicted += s[i * dv + j] * (k_raw[i] * k_scale);
          }
          const double d = beta * (v[j] - predicted);
          for (int i = 0; i < dk; ++i) {
            s[i * dv + j] = static_cast<float>(s[i * dv + j] + k_raw[i] * k_scale * d);
            o[j] += s[i * dv + j] * (q_raw[i] * q_scale);
          }
        }
        double squares = 0;
        for (int j = 0; j < dv; ++j) squares += o[j] * o[j];
        const double scale = 1.0 / std::sqrt(squares / dv + spec().rms_eps);
        for (int j = 0; j < dv; ++j) {
          heads[h * dv + j] = static_cast<float>(weights.norm[j] * (o[j] * scale) * Silu(z[h * dv + j]));
        }
      }
      SetDelta(row, MatVec(weights.out, heads.data()), io);

      const int out_index = t - (group.rows - static_cast<int>(group.state_out.size()));
      if (out_index >= 0) {
        const StateSlot slot = group.state_out[out_index];
        std::copy(state.begin(), state.end(), cache.states.begin() + slot * cache.state_size);
        std::copy(columns.begin(), columns.end(), cache.columns.begin() + slot * cache.column_size);
      }
    }
  }

  std::vector<int> Choose(const MixtureOfExpertsSpec& moe, const std::vector<float>& router, int layer, int position) {
    if (tape_ == nullptr) return TopK(router, moe.experts_per_token);
    const absl::Span<int> taped = tape_->At(layer, position);
    if (tape_->mode == RoutingTape::Mode::kReplay) return std::vector<int>(taped.begin(), taped.end());
    std::vector<int> chosen = TopK(router, moe.experts_per_token);
    std::copy(chosen.begin(), chosen.end(), taped.begin());
    return chosen;
  }

  static std::vector<float> Experts(const MixtureOfExpertsSpec& moe, const MixtureOfExpertsWeights& weights,
                                    const std::vector<float>& logits, const std::vector<int>& chosen, const float* x) {
    const double max = *std::max_element(logits.begin(), logits.end());
    std::vector<double> p(logits.size());
    for (size_t e = 0; e < p.size(); ++e) p[e] = std::exp(logits[e] - max);
    // The softmax's own divisor, the sum over all experts, cancels when the chosen weights are renormalised.
    double divisor = 0;
    if (moe.gating == GatingRule::kSoftmaxRenormalised) {
      for (int e : chosen) divisor += p[e];
    } else {
      for (const double value : p) divisor += value;
    }
    std::vector<double> sum(weights.experts[0].down.rows);
    for (int e : chosen) {
      const std::vector<float> y = SwiGlu(weights.experts[e], x);
      for (size_t j = 0; j < sum.size(); ++j) sum[j] += p[e] / divisor * y[j];
    }
    if (weights.shared) {
      const double gate = weights.shared_gate ? Sigmoid(MatVec(*weights.shared_gate, x)[0]) : 1.0;
      const std::vector<float> y = SwiGlu(*weights.shared, x);
      for (size_t j = 0; j < sum.size(); ++j) sum[j] += gate * y[j];
    }
    return std::vector<float>(sum.begin(), sum.end());
  }

  std::shared_ptr<const Model> model_;
  BlocksLimits limits_;
  CacheCosts costs_;
  std::string numerics_id_;
  std::vector<float> x_, delta_;    // [max_rows, H]
  std::vector<LayerCache> caches_;  // one per layer, MTP last
  RoutingTape* tape_ = nullptr;
};

}  // namespace

CacheCosts ReferenceCacheCosts(const ModelSpec& spec) {
  CacheCosts costs;
  for (int i = 0; i < spec.total_layers(); ++i) {
    if (const auto* attention = std::get_if<AttentionSpec>(&spec.layer(i).mixer)) {
      costs.kv_page_bytes +=
          int64_t{2} * kKvPageTokens * attention->kv_heads * attention->head_dim * static_cast<int64_t>(sizeof(float));
    } else {
      const auto& net = std::get<GatedDeltaNetSpec>(spec.layer(i).mixer);
      costs.state_slot_bytes += (int64_t{net.value_heads} * net.key_dim * net.value_dim +
                                 int64_t{net.conv_kernel - 1} * net.conv_channels()) *
                                static_cast<int64_t>(sizeof(float));
    }
  }
  return costs;
}

absl::StatusOr<std::unique_ptr<Blocks>> MakeReferenceBlocks(std::shared_ptr<const Model> model,
                                                            const BlocksLimits& limits) {
  if (limits.max_rows < 1 || limits.max_head_rows < 1 || limits.kv_pages < 1 || limits.state_slots < 1) {
    return absl::InvalidArgumentError(absl::StrCat("limits cannot hold one sequence: ", limits.max_rows, " rows, ",
                                                   limits.max_head_rows, " head rows, ", limits.kv_pages, " pages, ",
                                                   limits.state_slots, " state slots; each must be at least 1"));
  }
  return std::make_unique<ReferenceBlocks>(std::move(model), limits);
}

}  // namespace gantry::engine
