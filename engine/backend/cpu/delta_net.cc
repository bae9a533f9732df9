#include "engine/backend/cpu/delta_net.h"

#include <algorithm>
#include <cmath>

namespace gantry::engine::cpu {
namespace {

constexpr int kTapsMax = 16;

float Sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}
float Softplus(float x) {
  return x > 20.0f ? x : std::log1p(std::exp(x));
}

}  // namespace

int64_t DeltaNetLayer::StateSize(const GatedDeltaNetSpec& spec) {
  return int64_t{spec.value_heads} * PaddedTo16(spec.value_dim) * spec.key_dim;
}
int64_t DeltaNetLayer::ColumnSize(const GatedDeltaNetSpec& spec) {
  return int64_t{spec.conv_kernel - 1} * spec.conv_channels();
}
int64_t DeltaNetLayer::StateSlotBytes(const GatedDeltaNetSpec& spec) {
  return (StateSize(spec) + ColumnSize(spec)) * static_cast<int64_t>(sizeof(float));
}

DeltaNetLayer::DeltaNetLayer(const GatedDeltaNetSpec& spec, const GatedDeltaNetWeights& weights,
                             const BlocksLimits& limits, uint8_t* memory, WeightStore* store, Step* step)
    : spec_(spec),
      source_(weights),
      step_(*step),
      qkv_(store->Add(weights.qkv)),
      z_(store->Add(weights.z)),
      b_(store->Add(weights.b, WeightStore::Role::kDecision)),
      a_(store->Add(weights.a, WeightStore::Role::kDecision)),
      out_(store->Add(weights.out)),
      slabs_(static_cast<int>(PaddedTo16(spec.value_dim) / kLanes)),
      state_size_(StateSize(spec)),
      column_size_(ColumnSize(spec)) {
  const int channels = spec.conv_channels();
  taps_.resize(static_cast<size_t>(spec.conv_kernel) * channels);
  for (int c = 0; c < channels; ++c) {
    for (int j = 0; j < spec.conv_kernel; ++j)
      taps_[static_cast<size_t>(j) * channels + c] = weights.conv[c * spec.conv_kernel + j];
  }
  states_ = reinterpret_cast<float*>(memory);
  columns_ = states_ + limits.state_slots * state_size_;
  history_size_ = int64_t{spec.conv_kernel - 1} * std::max(spec.key_dim, spec.value_dim);
  history_.resize(step->pool.threads() * history_size_);
  Require(&step->normed, {&qkv_, &z_, &b_, &a_});
  Require(&step->mixed, {&out_});
}

void DeltaNetLayer::ZeroState(StateSlot slot) {
  std::fill_n(states_ + slot * state_size_, state_size_, 0.0f);
  std::fill_n(columns_ + slot * column_size_, column_size_, 0.0f);
}
void DeltaNetLayer::CopyState(StateSlot from, StateSlot to) {
  std::copy_n(states_ + from * state_size_, state_size_, states_ + to * state_size_);
  std::copy_n(columns_ + from * column_size_, column_size_, columns_ + to * column_size_);
}

// The heads' raw output overwrites the convolution's input, which nobody reads any more: head h at a multiple of 16.
float* DeltaNetLayer::HeadOutput(int64_t row, int head) {
  return step_.wide.row(row) + head * PaddedTo16(spec_.value_dim);
}

void DeltaNetLayer::Run(const StepBatch& batch, Residual io) {
  const int rows = batch.rows();
  step_.MatMul({{qkv_, step_.normed, step_.wide.pointers()},
                {z_, step_.normed, step_.side_a.pointers()},
                {b_, step_.normed, step_.side_b.pointers()},
                {a_, step_.normed, step_.side_c.pointers()}},
               rows);
  const auto groups = static_cast<int64_t>(batch.groups.size());
  const int heads = 2 * spec_.key_heads + spec_.value_heads;
  step_.pool.ParallelFor(groups * heads, [&](int64_t i, int thread) {
    Convolve(batch.groups[i / heads], static_cast<int>(i % heads), &history_[thread * history_size_]);
  });
  step_.pool.ParallelFor(groups * spec_.value_heads, [&](int64_t i, int) {
    RunHead(batch.groups[i / spec_.value_heads], static_cast<int>(i % spec_.value_heads));
  });
  step_.pool.ParallelFor(rows, [&](int64_t row, int) { step_.mixed.Convert(row, step_.kernels); });
  step_.MatMul({{out_, step_.mixed, step_.DeltaRows(rows, io)}}, rows);
}

// The channels of one head, of q, k and v in that order, over the group's tokens: conv[row] = silu(depthwise causal
// convolution), q and k scaled to length 1 (q also by 1/sqrt(key_dim)); with a value head's channels its side_b and
// side_c become beta and decay. The last columns go to the output slots.
void DeltaNetLayer::Convolve(const RowGroup& group, int head, float* history) {
  const int taps = spec_.conv_kernel, channels = spec_.conv_channels(), key_dim = spec_.key_dim;
  const int value_head = head - 2 * spec_.key_heads, own = value_head < 0 ? key_dim : spec_.value_dim;
  const int first = value_head < 0 ? head * key_dim : 2 * spec_.key_heads * key_dim + value_head * spec_.value_dim;
  // A copy, because one of the output slots may be the input slot.
  const float* columns_in = columns_ + group.state_in * column_size_ + first;
  for (int j = 0; j < taps - 1; ++j) {
    std::copy_n(columns_in + static_cast<int64_t>(j) * channels, own, history + static_cast<int64_t>(j) * own);
  }
  // Input of token t (t < 0: before the group).
  const auto input = [&](int t) -> const float* {
    return t < 0 ? history + static_cast<int64_t>(taps - 1 + t) * own : step_.wide.row(group.first_row + t) + first;
  };
  for (int t = 0; t < group.rows; ++t) {
    const int64_t row = group.first_row + t;
    const float* inputs[kTapsMax];
    for (int j = 0; j < taps; ++j) inputs[j] = input(t - taps + 1 + j);
    float* c = step_.conv.row(row) + first;
    step_.kernels.floats->convolve_silu(inputs, taps, &taps_[first], channels, own, c);
    if (value_head < 0) {
      Normalise(c, head < spec_.key_heads ? 1.0f / std::sqrt(static_cast<float>(key_dim)) : 1.0f);
    } else {
      float& beta = step_.side_b.row(row)[value_head];
      float& decay = step_.side_c.row(row)[value_head];
      beta = Sigmoid(beta);
      decay = std::exp(source_.decay[value_head] * Softplus(decay + source_.dt_bias[value_head]));
    }
  }
  const int kept = static_cast<int>(group.state_out.size());
  for (int i = 0; i < kept; ++i) {
    const int t = group.rows - kept + i;
    float* columns = columns_ + group.state_out[i] * column_size_ + first;
    for (int j = 0; j < taps - 1; ++j) {
      std::copy_n(input(t - taps + 2 + j), own, columns + static_cast<int64_t>(j) * channels);
    }
  }
}

// A head of q or k to length `length`.
void DeltaNetLayer::Normalise(float* vector, float length) const {
  float padded[kKeyDimMax];
  std::copy_n(vector, spec_.key_dim, padded);
  std::fill(padded + spec_.key_dim, padded + PaddedTo16(spec_.key_dim), 0.0f);
  const float squares = step_.kernels.floats->dot(padded, padded, PaddedTo16(spec_.key_dim));
  const float scale = 1.0f / std::sqrt(squares + 1e-6f) * length;
  for (int i = 0; i < spec_.key_dim; ++i) vector[i] *= scale;
}

// One value head over the group's tokens, two slabs at a time, then its gated norm; the state after each kept row goes
// to its slot.
void DeltaNetLayer::RunHead(const RowGroup& group, int head) {
  const int key_head = spec_.tiled_value_heads ? head % spec_.key_heads : head / (spec_.value_heads / spec_.key_heads);
  const int kept = static_cast<int>(group.state_out.size()), value_dim = spec_.value_dim;
  float* c = step_.conv.row(group.first_row);
  const int64_t stride = step_.conv.stride();
  for (int slab = 0; slab < slabs_; slab += 2) {
    const int slabs = std::min(2, slabs_ - slab);
    const int64_t slab_size = int64_t{spec_.key_dim} * kLanes, size = slabs * slab_size;
    const int64_t at = (static_cast<int64_t>(head) * slabs_ + slab) * slab_size;
    const auto run = [&](float* state, int first, int tokens) {
      step_.kernels.floats->delta_slab({.state = state,
                                        .slabs = slabs,
                                        .key_dim = spec_.key_dim,
                                        .tokens = tokens,
                                        .q = c + first * stride + int64_t{key_head} * spec_.key_dim,
                                        .k = c + first * stride + int64_t{spec_.key_heads + key_head} * spec_.key_dim,
                                        .qk_stride = stride,
                                        .v = c + first * stride + int64_t{2} * spec_.key_heads * spec_.key_dim +
                                             int64_t{head} * value_dim + slab * kLanes,
                                        .v_stride = stride,
                                        .decay = step_.side_c.row(group.first_row + first) + head,
                                        .beta = step_.side_b.row(group.first_row + first) + head,
                                        .gate_stride = step_.side_b.stride(),
                                        .out = HeadOutput(group.first_row + first, head) + slab * kLanes,
                                        .out_stride = step_.wide.stride()});
    };
    const float* old = states_ + group.state_in * state_size_ + at;
    if (kept == 1) {
      // What a decoding row and a prompt's chunk keep is where they end: no need to work elsewhere.
      float* state = states_ + group.state_out[0] * state_size_ + at;
      if (state != old) std::copy_n(old, size, state);
      run(state, 0, group.rows);
      continue;
    }
    alignas(64) float state[2 * kKeyDimMax * kLanes];
    std::copy_n(old, size, state);
    if (group.rows > kept) run(state, 0, group.rows - kept);
    for (int i = 0; i < kept; ++i) {
      run(state, group.rows - kept + i, 1);
      std::copy_n(state, size, states_ + group.state_out[i] * state_size_ + at);
    }
  }
  for (int64_t row = group.first_row; row < group.first_row + group.rows; ++row) {
    step_.kernels.floats->gated_norm(HeadOutput(row, head), step_.side_a.row(row) + int64_t{head} * value_dim,
                                     source_.norm.data(), value_dim, step_.rms_eps,
                                     step_.mixed.row(row) + int64_t{head} * value_dim);
  }
}

}  // namespace gantry::engine::cpu
