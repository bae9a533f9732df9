#include "engine/backend/cpu/cpu_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <list>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/base/check.h"
#include "engine/base/thread_pool.h"
#include "engine/model/rope.h"

namespace gantry::engine {
namespace {

using cpu::Kernels;
using cpu::PaddedTo16;
using cpu::WeightView;

// Weight rows of one work item: large enough to amortise the counter, small enough to balance two threads on small
// models.
constexpr int64_t kItemRows = 32;

float Sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}
float Silu(float x) {
  return x * Sigmoid(x);
}
float Softplus(float x) {
  return x > 20.0f ? x : std::log1p(std::exp(x));
}

// Rows of floats whose stride is a multiple of 16 and whose padding stays zero.
class Rows {
 public:
  void Resize(int64_t rows, int64_t columns) {
    stride_ = PaddedTo16(columns);
    data_.assign(rows * stride_, 0.0f);
    pointers_.resize(rows);
    for (int64_t i = 0; i < rows; ++i) pointers_[i] = data_.data() + i * stride_;
  }
  float* row(int64_t i) { return pointers_[i]; }
  float* const* pointers() const { return pointers_.data(); }
  int64_t stride() const { return stride_; }

 private:
  int64_t stride_ = 0;
  std::vector<float> data_;
  std::vector<float*> pointers_;
};

struct SwiGlu {
  WeightView gate, up, down;
};

// A layer's weights in the kernels' form.
struct Layer {
  const LayerWeights* source = nullptr;
  WeightView q, k, v, o;         // attention
  WeightView qkv, z, b, a, out;  // delta net
  WeightView router, shared_gate;
  std::vector<SwiGlu> experts;  // one for a dense ffn
  bool mixture = false, has_shared = false;
  SwiGlu shared;

  // Attention: [pages, 64, kv_heads * head_dim].
  int kv_row = 0;
  std::vector<float> keys, values;
  // Delta net: states [slots, value_heads, slabs, key_dim, 16], columns [slots, taps - 1, channels] oldest first.
  size_t state_size = 0, column_size = 0;
  int slabs = 0;
  std::vector<float> states, columns;
};

class CpuBlocks final : public Blocks {
 public:
  CpuBlocks(std::shared_ptr<const Model> model, const BlocksLimits& limits, const Kernels& kernels)
      : model_(std::move(model)),
        limits_(limits),
        kernels_(kernels),
        pool_(limits.threads),
        numerics_id_("cpu/bf16-f32x16") {
    for (int i = 0; i < spec().total_layers(); ++i) layers_.push_back(MakeLayer(i));
    head_ = View(model_->head);
    if (model_->mtp) fc_ = View(model_->mtp->fc);
    AllocateBuffers();
    Prefault();
  }

  const ModelSpec& spec() const override { return model_->spec; }
  const BlocksLimits& limits() const override { return limits_; }
  CacheCosts costs() const override { return costs_; }
  const std::string& numerics_id() const override { return numerics_id_; }
  Residual residual() override { return {x_.data(), delta_.data()}; }

  void Embed(const StepBatch& batch, Residual io) override {
    GANTRY_CHECK(batch.rows() <= limits_.max_rows, "a batch fits the buffers");
    const int64_t hidden = spec().hidden;
    for (int row = 0; row < batch.rows(); ++row) {
      EmbeddingRow(batch.tokens[row], io.x + row * hidden);
      std::fill_n(io.delta + row * hidden, hidden, 0.0f);
    }
  }

  void Mixer(int index, const StepBatch& batch, Residual io) override {
    Layer& layer = layers_[index];
    Normalise(batch.rows(), layer.source->mixer_norm, io);
    if (const auto* attention = std::get_if<AttentionSpec>(&spec().layer(index).mixer)) {
      Attention(*attention, std::get<AttentionWeights>(layer.source->mixer), layer, batch, io);
    } else {
      DeltaNet(std::get<GatedDeltaNetSpec>(spec().layer(index).mixer),
               std::get<GatedDeltaNetWeights>(layer.source->mixer), layer, batch, io);
    }
  }

  void Ffn(int index, const StepBatch& batch, Residual io) override {
    Layer& layer = layers_[index];
    Normalise(batch.rows(), layer.source->ffn_norm, io);
    Experts(spec().layer(index).ffn, layer, batch.rows(), io);
  }

  void Head(HeadOf which, absl::Span<const int> rows_wanted, Residual in, float* hidden, float* logits) override {
    const int64_t size = spec().hidden, vocab = spec().vocab_rows;
    const int count = static_cast<int>(rows_wanted.size());
    GANTRY_CHECK(logits == nullptr || count <= limits_.max_head_rows, "rows with logits fit the limit");
    const std::vector<float>& norm = which == HeadOf::kTrunk ? model_->final_norm : model_->mtp->final_norm;
    pool_.ParallelFor(count, [&](int64_t i, int) {
      const float* x = in.x + rows_wanted[i] * size;
      const float* delta = in.delta + rows_wanted[i] * size;
      float* row = normed_.row(i);
      for (int64_t j = 0; j < size; ++j) row[j] = x[j] + delta[j];
      RmsNorm(row, norm.data(), size, row);
      std::copy_n(row, size, hidden + i * size);
    });
    if (logits == nullptr) return;
    for (int i = 0; i < count; ++i) logit_rows_[i] = logits + i * vocab;
    MatMul({{head_, normed_.pointers(), logit_rows_.data()}}, count);
  }

  void MtpInput(const StepBatch& batch, const float* hidden, Residual io) override {
    const int64_t size = spec().hidden;
    const MtpWeights& mtp = *model_->mtp;
    pool_.ParallelFor(batch.rows(), [&](int64_t i, int) {
      float* row = concat_.row(i);
      EmbeddingRow(batch.tokens[i], normed_.row(i));
      RmsNorm(normed_.row(i), mtp.embedding_norm.data(), size, normed_.row(i));
      std::copy_n(normed_.row(i), size, row);
      std::copy_n(hidden + i * size, size, normed_.row(i));
      RmsNorm(normed_.row(i), mtp.hidden_norm.data(), size, normed_.row(i));
      std::copy_n(normed_.row(i), size, row + size);
      std::fill_n(io.delta + i * size, size, 0.0f);
      out_rows_[i] = io.x + i * size;
    });
    MatMul({{fc_, concat_.pointers(), out_rows_.data()}}, batch.rows());
  }

  void ZeroState(StateSlot slot) override {
    for (Layer& layer : layers_) {
      std::fill_n(layer.states.begin() + slot * layer.state_size, layer.state_size, 0.0f);
      std::fill_n(layer.columns.begin() + slot * layer.column_size, layer.column_size, 0.0f);
    }
  }

  void CopyState(StateSlot from, StateSlot to) override {
    for (Layer& layer : layers_) {
      std::copy_n(layer.states.begin() + from * layer.state_size, layer.state_size,
                  layer.states.begin() + to * layer.state_size);
      std::copy_n(layer.columns.begin() + from * layer.column_size, layer.column_size,
                  layer.columns.begin() + to * layer.column_size);
    }
  }

 private:
  // ---- set-up ----

  WeightView View(const Matrix& matrix) {
    WeightView view{matrix.data, matrix.rows, matrix.columns, matrix.dtype == DType::kBF16};
    if (matrix.dtype != DType::kF32 && matrix.dtype != DType::kBF16) {
      // Kernels know two types; every other one is decoded to float32 once, here.
      std::vector<float>& wide = widened_.emplace_back(matrix.rows * matrix.columns);
      for (int64_t row = 0; row < matrix.rows; ++row) ReadRow(matrix, row, wide.data() + row * matrix.columns);
      view.data = wide.data();
    }
    weights_.push_back(view);
    return view;
  }

  SwiGlu View(const SwiGluWeights& weights) { return {View(weights.gate), View(weights.up), View(weights.down)}; }

  Layer MakeLayer(int index) {
    Layer layer;
    const LayerWeights& weights = layer_weights(index);
    layer.source = &weights;
    if (const auto* attention = std::get_if<AttentionSpec>(&spec().layer(index).mixer)) {
      const auto& w = std::get<AttentionWeights>(weights.mixer);
      layer.q = View(w.q);
      layer.k = View(w.k);
      layer.v = View(w.v);
      layer.o = View(w.o);
      layer.kv_row = attention->kv_heads * attention->head_dim;
      layer.keys.resize(static_cast<size_t>(limits_.kv_pages) * kKvPageTokens * layer.kv_row);
      layer.values.resize(layer.keys.size());
      costs_.kv_page_bytes += int64_t{2} * kKvPageTokens * layer.kv_row * static_cast<int64_t>(sizeof(float));
    } else {
      const auto& net = std::get<GatedDeltaNetSpec>(spec().layer(index).mixer);
      const auto& w = std::get<GatedDeltaNetWeights>(weights.mixer);
      layer.qkv = View(w.qkv);
      layer.z = View(w.z);
      layer.b = View(w.b);
      layer.a = View(w.a);
      layer.out = View(w.out);
      layer.slabs = static_cast<int>(PaddedTo16(net.value_dim) / cpu::kLanes);
      layer.state_size = static_cast<size_t>(net.value_heads) * layer.slabs * net.key_dim * cpu::kLanes;
      layer.column_size = static_cast<size_t>(net.conv_kernel - 1) * net.conv_channels();
      layer.states.resize(limits_.state_slots * layer.state_size);
      layer.columns.resize(limits_.state_slots * layer.column_size);
      costs_.state_slot_bytes += static_cast<int64_t>((layer.state_size + layer.column_size) * sizeof(float));
    }
    if (const auto* dense = std::get_if<SwiGluWeights>(&weights.ffn)) {
      layer.experts.push_back(View(*dense));
    } else {
      const auto& moe = std::get<MixtureOfExpertsWeights>(weights.ffn);
      layer.mixture = true;
      layer.router = View(moe.router);
      for (const SwiGluWeights& expert : moe.experts) layer.experts.push_back(View(expert));
      layer.has_shared = moe.shared.has_value();
      if (moe.shared) layer.shared = View(*moe.shared);
      if (moe.shared_gate) layer.shared_gate = View(*moe.shared_gate);
    }
    return layer;
  }

  const LayerWeights& layer_weights(int index) const { return model_->layer(index); }

  void AllocateBuffers() {
    const int64_t rows = limits_.max_rows, hidden = spec().hidden;
    int64_t mixer_in = 0, mixer_out = 0, gates = 0, taps = 0, channels = 0, width = 0, slots = 1, experts = 1;
    for (int i = 0; i < spec().total_layers(); ++i) {
      const LayerSpec& layer = spec().layer(i);
      if (const auto* attention = std::get_if<AttentionSpec>(&layer.mixer)) {
        const int64_t query = int64_t{attention->query_heads} * attention->head_dim;
        mixer_in = std::max(mixer_in, query * (attention->output_gate ? 2 : 1));
        mixer_out = std::max(mixer_out, query);
        gates = std::max(gates, int64_t{attention->kv_heads} * attention->head_dim);
      } else {
        const auto& net = std::get<GatedDeltaNetSpec>(layer.mixer);
        const int64_t value = int64_t{net.value_heads} * net.value_dim;
        mixer_in = std::max<int64_t>(mixer_in, net.conv_channels());
        mixer_out = std::max({mixer_out, value, int64_t{net.value_heads} * PaddedTo16(net.value_dim)});
        gates = std::max<int64_t>({gates, value, net.value_heads});
        taps = std::max<int64_t>(taps, net.conv_kernel);
        channels = std::max<int64_t>(channels, net.conv_channels());
      }
      if (const auto* dense = std::get_if<DenseSpec>(&layer.ffn)) {
        width = std::max<int64_t>(width, dense->width);
      } else {
        const auto& moe = std::get<MixtureOfExpertsSpec>(layer.ffn);
        width = std::max<int64_t>({width, moe.width, moe.shared_width});
        slots = std::max<int64_t>(slots, moe.experts_per_token + (moe.shared_width > 0 ? 1 : 0));
        experts = std::max<int64_t>(experts, moe.experts + 1);
      }
    }
    x_.resize(rows * hidden);
    delta_.resize(rows * hidden);
    normed_.Resize(rows, hidden);
    concat_.Resize(rows, 2 * hidden);
    wide_.Resize(rows, mixer_in);
    conv_.Resize(rows, channels);
    mixed_.Resize(rows, mixer_out);
    side_a_.Resize(rows, gates);
    side_b_.Resize(rows, gates);
    side_c_.Resize(rows, gates);
    history_.resize(taps * channels);
    router_.Resize(rows, experts);
    gate_out_.Resize(rows * slots, width);
    up_out_.Resize(rows * slots, width);
    down_out_.Resize(rows * slots, hidden);
    choice_expert_.resize(rows * slots);
    choice_weight_.resize(rows * slots);
    expert_begin_.resize(experts + 1);
    expert_cursor_.resize(experts);
    grouped_in_.resize(rows * slots);
    grouped_gate_.resize(rows * slots);
    grouped_up_.resize(rows * slots);
    grouped_down_.resize(rows * slots);
    active_.reserve(experts);
    out_rows_.resize(std::max<int64_t>(rows, limits_.max_head_rows));
    logit_rows_.resize(limits_.max_head_rows);
    order_.resize(experts);
  }

  // Reads one word of every page of the weights, so that the first request does not wait for the disk.
  void Prefault() const {
    constexpr int64_t kPageBytes = 4096;
    volatile char sink = 0;
    for (const WeightView& view : weights_) {
      const int64_t bytes = view.rows * view.columns * (view.bf16 ? 2 : 4);
      for (int64_t i = 0; i < bytes; i += kPageBytes) sink = static_cast<const char*>(view.data)[i];
    }
    (void)sink;
  }

  // ---- pieces ----

  void EmbeddingRow(TokenId token, float* out) const { ReadRow(model_->embedding, token, out); }

  // x: [PaddedTo16(size)], zero beyond size; y may be x.
  void RmsNorm(const float* x, const float* weight, int64_t size, float* y) const {
    const float scale =
        1.0f / std::sqrt(kernels_.dot(x, x, PaddedTo16(size)) / static_cast<float>(size) + spec().rms_eps);
    for (int64_t i = 0; i < size; ++i) y[i] = x[i] * scale * weight[i];
  }

  // x += delta, normed_ = norm(x).
  void Normalise(int rows, const std::vector<float>& weight, Residual io) {
    const int64_t size = spec().hidden;
    pool_.ParallelFor(rows, [&](int64_t i, int) {
      float* x = io.x + i * size;
      float* row = normed_.row(i);
      for (int64_t j = 0; j < size; ++j) row[j] = x[j] += io.delta[i * size + j];
      RmsNorm(row, weight.data(), size, row);
    });
  }

  struct Product {
    WeightView w;
    float* const* x;  // activation rows
    float* const* y;  // output rows
  };

  // Several products over the same number of rows as one parallel loop.
  void MatMul(std::initializer_list<Product> products, int count) {
    int64_t items = 0;
    for (const Product& product : products) items += (product.w.rows + kItemRows - 1) / kItemRows;
    pool_.ParallelFor(items, [&](int64_t item, int) {
      for (const Product& product : products) {
        const int64_t own = (product.w.rows + kItemRows - 1) / kItemRows;
        if (item < own) {
          kernels_.matmul(product.w, item * kItemRows, std::min(product.w.rows, (item + 1) * kItemRows), product.x,
                          count, product.y);
          return;
        }
        item -= own;
      }
    });
  }

  float* const* DeltaRows(int rows, Residual io) {
    for (int i = 0; i < rows; ++i) out_rows_[i] = io.delta + static_cast<int64_t>(i) * spec().hidden;
    return out_rows_.data();
  }

  // ---- attention ----

  static int64_t KvOffset(const RowGroup& group, int position, int kv_row) {
    return (static_cast<int64_t>(group.pages[position / kKvPageTokens]) * kKvPageTokens + position % kKvPageTokens) *
           kv_row;
  }

  static void Rope(float* head, int position, const RopeSpec& rope) {
    for (int pair = 0; pair < rope.rotary_dim / 2; ++pair) {
      const RopeTurn turn = TurnAt(rope, position, pair);
      const auto cosine = static_cast<float>(turn.cosine), sine = static_cast<float>(turn.sine);
      float& x = head[FirstOfPair(rope, pair)];
      float& y = head[SecondOfPair(rope, pair)];
      const float a = x, b = y;
      x = a * cosine - b * sine;
      y = b * cosine + a * sine;
    }
  }

  // A head's vector need not be padded: the sum of squares goes through a padded copy.
  void NormHead(float* head, const std::vector<float>& weight, int size) const {
    float padded[kHeadDimMax];
    std::copy_n(head, size, padded);
    std::fill(padded + size, padded + PaddedTo16(size), 0.0f);
    RmsNorm(padded, weight.data(), size, head);
  }

  void Attention(const AttentionSpec& attention, const AttentionWeights& weights, Layer& layer, const StepBatch& batch,
                 Residual io) {
    const int head_dim = attention.head_dim, rows = batch.rows();
    const int query_stride = head_dim * (attention.output_gate ? 2 : 1);
    MatMul({{layer.q, normed_.pointers(), wide_.pointers()},
            {layer.k, normed_.pointers(), side_a_.pointers()},
            {layer.v, normed_.pointers(), side_b_.pointers()}},
           rows);
    // Every row's key and value stand in the cache before any row attends: rows of one group see each other.
    for (const RowGroup& group : batch.groups) {
      pool_.ParallelFor(group.rows, [&](int64_t t, int) {
        const int64_t row = group.first_row + t;
        const int position = group.position + static_cast<int>(t);
        float* k = side_a_.row(row);
        for (int h = 0; h < attention.kv_heads; ++h) {
          if (attention.qk_norm) NormHead(k + h * head_dim, weights.k_norm, head_dim);
          Rope(k + h * head_dim, position, attention.rope);
        }
        const int64_t offset = KvOffset(group, position, layer.kv_row);
        std::copy_n(k, layer.kv_row, layer.keys.data() + offset);
        std::copy_n(side_b_.row(row), layer.kv_row, layer.values.data() + offset);
      });
    }
    for (const RowGroup& group : batch.groups) {
      pool_.ParallelFor(int64_t{group.rows} * attention.query_heads, [&](int64_t item, int) {
        const int t = static_cast<int>(item / attention.query_heads),
                  h = static_cast<int>(item % attention.query_heads);
        const int64_t row = group.first_row + t;
        float* query = wide_.row(row) + static_cast<int64_t>(h) * query_stride;
        AttendHead(attention, weights, layer, group, group.position + t, h, query, mixed_.row(row) + h * head_dim);
      });
    }
    MatMul({{layer.o, mixed_.pointers(), DeltaRows(rows, io)}}, rows);
  }

  void AttendHead(const AttentionSpec& attention, const AttentionWeights& weights, const Layer& layer,
                  const RowGroup& group, int position, int h, float* query, float* out) const {
    const int head_dim = attention.head_dim;
    if (attention.qk_norm) NormHead(query, weights.q_norm, head_dim);
    Rope(query, position, attention.rope);
    float padded[kHeadDimMax];
    std::copy_n(query, head_dim, padded);
    std::fill(padded + head_dim, padded + PaddedTo16(head_dim), 0.0f);
    const int kv_head = h / (attention.query_heads / attention.kv_heads);
    float max = -std::numeric_limits<float>::infinity(), sum = 0;
    std::fill_n(out, head_dim, 0.0f);
    for (int first = 0; first <= position; first += kKvPageTokens) {
      const int64_t offset = KvOffset(group, first, layer.kv_row) + kv_head * head_dim;
      kernels_.attend_page({.query = padded,
                            .keys = layer.keys.data() + offset,
                            .values = layer.values.data() + offset,
                            .stride = layer.kv_row,
                            .count = std::min(kKvPageTokens, position + 1 - first),
                            .head_dim = head_dim,
                            .scale = attention.score_scale,
                            .max = &max,
                            .sum = &sum,
                            .acc = out});
    }
    const float* gate = query + head_dim;
    for (int i = 0; i < head_dim; ++i) out[i] = out[i] / sum * (attention.output_gate ? Sigmoid(gate[i]) : 1.0f);
  }

  // ---- gated delta net ----

  void DeltaNet(const GatedDeltaNetSpec& net, const GatedDeltaNetWeights& weights, Layer& layer, const StepBatch& batch,
                Residual io) {
    const int rows = batch.rows();
    // u, z, and the two gates of every value head.
    MatMul({{layer.qkv, normed_.pointers(), wide_.pointers()},
            {layer.z, normed_.pointers(), side_a_.pointers()},
            {layer.b, normed_.pointers(), side_b_.pointers()},
            {layer.a, normed_.pointers(), side_c_.pointers()}},
           rows);
    for (const RowGroup& group : batch.groups) Convolve(net, weights, layer, group);
    pool_.ParallelFor(rows, [&](int64_t row, int) {
      float* c = conv_.row(row);
      for (int head = 0; head < 2 * net.key_heads; ++head) {
        ScaleToUnit(c + head * net.key_dim, net.key_dim,
                    head < net.key_heads ? 1.0f / std::sqrt(static_cast<float>(net.key_dim)) : 1.0f);
      }
      float* b = side_b_.row(row);
      float* a = side_c_.row(row);
      for (int h = 0; h < net.value_heads; ++h) {
        b[h] = Sigmoid(b[h]);
        a[h] = std::exp(weights.decay[h] * Softplus(a[h] + weights.dt_bias[h]));
      }
    });
    for (const RowGroup& group : batch.groups) {
      pool_.ParallelFor(net.value_heads, [&](int64_t h, int) { RunHead(net, layer, group, static_cast<int>(h)); });
    }
    pool_.ParallelFor(rows, [&](int64_t row, int) {
      for (int h = 0; h < net.value_heads; ++h) {
        const float* o = conv_out(row, h, net);
        float* out = mixed_.row(row) + h * net.value_dim;
        const float* z = side_a_.row(row) + h * net.value_dim;
        const float scale =
            1.0f / std::sqrt(kernels_.dot(o, o, PaddedTo16(net.value_dim)) / static_cast<float>(net.value_dim) +
                             spec().rms_eps);
        for (int j = 0; j < net.value_dim; ++j) out[j] = weights.norm[j] * (o[j] * scale) * Silu(z[j]);
      }
    });
    MatMul({{layer.out, mixed_.pointers(), DeltaRows(rows, io)}}, rows);
  }

  // The heads' raw output overwrites u, which nobody reads after the convolution: head h at a multiple of 16.
  float* conv_out(int64_t row, int h, const GatedDeltaNetSpec& net) {
    return wide_.row(row) + h * PaddedTo16(net.value_dim);
  }

  void ScaleToUnit(float* vector, int size, float factor) const {
    float padded[kHeadDimMax];
    std::copy_n(vector, size, padded);
    std::fill(padded + size, padded + PaddedTo16(size), 0.0f);
    const float scale = 1.0f / std::sqrt(kernels_.dot(padded, padded, PaddedTo16(size)) + 1e-6f) * factor;
    for (int i = 0; i < size; ++i) vector[i] *= scale;
  }

  // conv_[row] = silu(depthwise causal convolution of u); new columns to the output slots.
  void Convolve(const GatedDeltaNetSpec& net, const GatedDeltaNetWeights& weights, Layer& layer,
                const RowGroup& group) {
    const int taps = net.conv_kernel, channels = net.conv_channels();
    // A copy, because one of the output slots may be the input slot.
    std::copy_n(layer.columns.begin() + group.state_in * layer.column_size, layer.column_size, history_.begin());
    // u of token t (t < 0: before the group).
    const auto input = [&](int t) {
      return t < 0 ? history_.data() + static_cast<int64_t>(taps - 1 + t) * channels : wide_.row(group.first_row + t);
    };
    pool_.ParallelFor(group.rows, [&](int64_t t, int) {
      float* c = conv_.row(group.first_row + t);
      for (int ch = 0; ch < channels; ++ch) {
        float sum = 0;
        for (int j = 0; j < taps; ++j) {
          sum = std::fma(weights.conv[ch * taps + j], input(static_cast<int>(t) - taps + 1 + j)[ch], sum);
        }
        c[ch] = Silu(sum);
      }
    });
    const int kept = static_cast<int>(group.state_out.size());
    for (int i = 0; i < kept; ++i) {
      const int t = group.rows - kept + i;
      float* columns = layer.columns.data() + group.state_out[i] * layer.column_size;
      for (int j = 0; j < taps - 1; ++j)
        std::copy_n(input(t - taps + 2 + j), channels, columns + static_cast<int64_t>(j) * channels);
    }
  }

  // One value head over the group's tokens, slab by slab; the state after each kept row goes to its slot.
  void RunHead(const GatedDeltaNetSpec& net, Layer& layer, const RowGroup& group, int h) {
    const int key_head = net.tiled_value_heads ? h % net.key_heads : h / (net.value_heads / net.key_heads);
    const int kept = static_cast<int>(group.state_out.size()), value_dim = net.value_dim;
    const size_t slab_size = static_cast<size_t>(net.key_dim) * cpu::kLanes;
    float* c = conv_.row(group.first_row);
    for (int slab = 0; slab < layer.slabs; ++slab) {
      const size_t at = (static_cast<size_t>(h) * layer.slabs + slab) * slab_size;
      float state[kKeyDimMax * cpu::kLanes];
      std::copy_n(layer.states.begin() + group.state_in * layer.state_size + at, slab_size, state);
      const auto run = [&](int first, int tokens) {
        kernels_.delta_slab(
            {.state = state,
             .key_dim = net.key_dim,
             .tokens = tokens,
             .q = c + first * conv_.stride() + key_head * net.key_dim,
             .k = c + first * conv_.stride() + (net.key_heads + key_head) * net.key_dim,
             .qk_stride = conv_.stride(),
             .v = c + first * conv_.stride() + 2 * net.key_heads * net.key_dim + h * value_dim + slab * cpu::kLanes,
             .v_stride = conv_.stride(),
             .decay = side_c_.row(group.first_row + first) + h,
             .beta = side_b_.row(group.first_row + first) + h,
             .gate_stride = side_b_.stride(),
             .out = conv_out(group.first_row + first, h, net) + slab * cpu::kLanes,
             .out_stride = wide_.stride()});
      };
      if (group.rows > kept) run(0, group.rows - kept);
      for (int i = 0; i < kept; ++i) {
        run(group.rows - kept + i, 1);
        std::copy_n(state, slab_size, layer.states.begin() + group.state_out[i] * layer.state_size + at);
      }
    }
  }

  // ---- feed-forward ----

  // Rows grouped by expert, so that each expert's weights are read once; the shared expert is one more that all rows
  // chose.
  void Experts(const FfnSpec& ffn, Layer& layer, int rows, Residual io) {
    int per_row = 1, experts = 1;
    if (layer.mixture) {
      const auto& moe = std::get<MixtureOfExpertsSpec>(ffn);
      MatMul({{layer.router, normed_.pointers(), router_.pointers()}}, rows);
      for (int row = 0; row < rows; ++row)
        Route(moe, router_.row(row), row * (moe.experts_per_token + layer.has_shared));
      per_row = moe.experts_per_token + layer.has_shared;
      experts = moe.experts + layer.has_shared;
      if (layer.has_shared) ChooseShared(moe, layer, rows, per_row);
    } else {
      for (int row = 0; row < rows; ++row) {
        choice_expert_[row] = 0;
        choice_weight_[row] = 1.0f;
      }
    }
    const int choices = rows * per_row;
    std::fill_n(expert_begin_.begin(), experts + 1, 0);
    for (int i = 0; i < choices; ++i) ++expert_begin_[choice_expert_[i] + 1];
    active_.clear();
    for (int e = 0; e < experts; ++e) {
      if (expert_begin_[e + 1] > 0) active_.push_back(e);
      expert_begin_[e + 1] += expert_begin_[e];
      expert_cursor_[e] = expert_begin_[e];
    }
    for (int i = 0; i < choices; ++i) {
      const int place = expert_cursor_[choice_expert_[i]]++;
      grouped_in_[place] = normed_.row(i / per_row);
      grouped_gate_[place] = gate_out_.row(i);
      grouped_up_[place] = up_out_.row(i);
      grouped_down_[place] = down_out_.row(i);
    }
    const auto weights = [&](int e) -> const SwiGlu& {
      return layer.has_shared && e == experts - 1 ? layer.shared : layer.experts[e];
    };
    ForExperts([&](int e) { return weights(e).gate.rows; },
               [&](int e, int64_t begin, int64_t end) {
                 const int first = expert_begin_[e], count = expert_begin_[e + 1] - first;
                 kernels_.matmul(weights(e).gate, begin, end, &grouped_in_[first], count, &grouped_gate_[first]);
                 kernels_.matmul(weights(e).up, begin, end, &grouped_in_[first], count, &grouped_up_[first]);
                 for (int i = first; i < first + count; ++i) {
                   for (int64_t j = begin; j < end; ++j)
                     grouped_gate_[i][j] = Silu(grouped_gate_[i][j]) * grouped_up_[i][j];
                 }
               });
    // Experts may differ in width: what a wider one left beyond this one's columns must not enter its padded dot
    // products.
    for (int e : active_) {
      const int64_t width = weights(e).gate.rows;
      for (int i = expert_begin_[e]; i < expert_begin_[e + 1]; ++i)
        std::fill(grouped_gate_[i] + width, grouped_gate_[i] + PaddedTo16(width), 0.0f);
    }
    ForExperts([&](int e) { return weights(e).down.rows; },
               [&](int e, int64_t begin, int64_t end) {
                 const int first = expert_begin_[e], count = expert_begin_[e + 1] - first;
                 kernels_.matmul(weights(e).down, begin, end, &grouped_gate_[first], count, &grouped_down_[first]);
               });
    const int64_t hidden = spec().hidden;
    pool_.ParallelFor(rows, [&](int64_t row, int) {
      float* delta = io.delta + row * hidden;
      std::fill_n(delta, hidden, 0.0f);
      for (int slot = 0; slot < per_row; ++slot) {
        const float weight = choice_weight_[row * per_row + slot];
        const float* y = down_out_.row(row * per_row + slot);
        for (int64_t j = 0; j < hidden; ++j) delta[j] = std::fma(weight, y[j], delta[j]);
      }
    });
  }

  // body(expert, begin, end) over chunks of rows_of(expert) for every active expert.
  template <typename RowsOf, typename Body>
  void ForExperts(const RowsOf& rows_of, const Body& body) {
    int64_t items = 0;
    for (int e : active_) items += (rows_of(e) + kItemRows - 1) / kItemRows;
    pool_.ParallelFor(items, [&](int64_t item, int) {
      for (int e : active_) {
        const int64_t own = (rows_of(e) + kItemRows - 1) / kItemRows;
        if (item < own) {
          body(e, item * kItemRows, std::min<int64_t>(rows_of(e), (item + 1) * kItemRows));
          return;
        }
        item -= own;
      }
    });
  }

  // Top-k of the router's logits; ties go to the lower index. Softmax over all experts, renormalised over the chosen,
  // is the softmax over the chosen; without that, all experts stand in the divisor.
  void Route(const MixtureOfExpertsSpec& moe, const float* logits, int first_choice) {
    const int k = moe.experts_per_token;
    for (int e = 0; e < moe.experts; ++e) order_[e] = e;
    std::partial_sort(order_.begin(), order_.begin() + k, order_.begin() + moe.experts,
                      [logits](int a, int b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    float sum = 0;
    for (int i = 0; i < k; ++i)
      sum += choice_weight_[first_choice + i] = std::exp(logits[order_[i]] - logits[order_[0]]);
    if (moe.gating == GatingRule::kSoftmax) {
      for (int i = k; i < moe.experts; ++i) sum += std::exp(logits[order_[i]] - logits[order_[0]]);
    }
    for (int i = 0; i < k; ++i) {
      choice_expert_[first_choice + i] = order_[i];
      choice_weight_[first_choice + i] /= sum;
    }
  }

  void ChooseShared(const MixtureOfExpertsSpec& moe, const Layer& layer, int rows, int per_row) {
    if (layer.shared_gate.data != nullptr) MatMul({{layer.shared_gate, normed_.pointers(), router_.pointers()}}, rows);
    for (int row = 0; row < rows; ++row) {
      const int choice = row * per_row + moe.experts_per_token;
      choice_expert_[choice] = moe.experts;
      choice_weight_[choice] = layer.shared_gate.data != nullptr ? Sigmoid(router_.row(row)[0]) : 1.0f;
    }
  }

  static constexpr int kHeadDimMax = 1024;
  static constexpr int kKeyDimMax = 256;

  std::shared_ptr<const Model> model_;
  BlocksLimits limits_;
  const Kernels& kernels_;
  ThreadPool pool_;
  std::string numerics_id_;
  CacheCosts costs_;
  std::vector<Layer> layers_;
  WeightView head_, fc_;
  std::vector<WeightView> weights_;        // all of them, for prefaulting
  std::list<std::vector<float>> widened_;  // decoded weights of other types

  std::vector<float> x_, delta_;  // [max_rows, H]
  Rows normed_, concat_, wide_, conv_, mixed_, side_a_, side_b_, side_c_, router_;
  Rows gate_out_, up_out_, down_out_;  // [max_rows * slots, ...]
  std::vector<float> history_;         // [taps - 1, channels]
  std::vector<int> choice_expert_, expert_begin_, expert_cursor_, active_, order_;
  std::vector<float> choice_weight_;
  std::vector<float*> grouped_in_, grouped_gate_, grouped_up_, grouped_down_, out_rows_, logit_rows_;

 public:
  static absl::Status CheckModel(const ModelSpec& spec) {
    for (int i = 0; i < spec.total_layers(); ++i) {
      if (const auto* attention = std::get_if<AttentionSpec>(&spec.layer(i).mixer)) {
        if (attention->head_dim > kHeadDimMax) {
          return absl::InvalidArgumentError(absl::StrCat("layer ", i, ": head_dim ", attention->head_dim,
                                                         ", the CPU backend takes at most ", kHeadDimMax));
        }
      } else {
        const auto& net = std::get<GatedDeltaNetSpec>(spec.layer(i).mixer);
        if (net.key_dim > kKeyDimMax || net.value_dim % cpu::kLanes != 0) {
          return absl::InvalidArgumentError(absl::StrCat(
              "layer ", i, ": delta-net heads of ", net.key_dim, " x ", net.value_dim,
              ", the CPU backend takes key_dim <= ", kKeyDimMax, " and value_dim in multiples of ", cpu::kLanes));
        }
      }
    }
    return absl::OkStatus();
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<Blocks>> MakeCpuBlocks(std::shared_ptr<const Model> model, const BlocksLimits& limits) {
  if (limits.max_rows < 1 || limits.max_head_rows < 1 || limits.kv_pages < 1 || limits.state_slots < 1) {
    return absl::InvalidArgumentError(absl::StrCat("limits cannot hold one sequence: ", limits.max_rows, " rows, ",
                                                   limits.max_head_rows, " head rows, ", limits.kv_pages, " pages, ",
                                                   limits.state_slots, " state slots; each must be at least 1"));
  }
  if (absl::Status status = CpuBlocks::CheckModel(model->spec); !status.ok()) return status;
  const Kernels* kernels = cpu::ChooseKernels();
  if (kernels == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("GANTRY_CPU_ISA is `", std::getenv("GANTRY_CPU_ISA"),
                     "`, expected scalar, avx2 or avx512, as far as this machine has them"));
  }
  return std::make_unique<CpuBlocks>(std::move(model), limits, *kernels);
}

}  // namespace gantry::engine
