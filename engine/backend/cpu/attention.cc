#include "engine/backend/cpu/attention.h"

#include <algorithm>
#include <limits>

namespace gantry::engine::cpu {

AttentionLayer::AttentionLayer(const AttentionSpec& spec, const AttentionWeights& weights, const BlocksLimits& limits,
                               WeightStore* store, Step* step)
    : spec_(spec),
      source_(weights),
      step_(*step),
      q_(store->Add(weights.q)),
      k_(store->Add(weights.k)),
      v_(store->Add(weights.v)),
      o_(store->Add(weights.o)),
      kv_row_(spec.kv_heads * spec.head_dim) {
  keys_.resize(static_cast<size_t>(limits.kv_pages) * kKvPageTokens * kv_row_);
  values_.resize(keys_.size());
  rope_.Prepare(spec.rope, limits.max_rows);
  Require(&step->normed, {&q_, &k_, &v_});
  Require(&step->mixed, {&o_});
}

int64_t AttentionLayer::KvPageBytes(const AttentionSpec& spec) {
  return int64_t{2} * kKvPageTokens * spec.kv_heads * spec.head_dim * static_cast<int64_t>(sizeof(float));
}

void AttentionLayer::ZeroPage(KvPage page) {
  const int64_t size = int64_t{kKvPageTokens} * kv_row_;
  std::fill_n(keys_.begin() + page * size, size, 0.0f);
  std::fill_n(values_.begin() + page * size, size, 0.0f);
}

int64_t AttentionLayer::KvOffset(const RowGroup& group, int position) const {
  return (static_cast<int64_t>(group.pages[position / kKvPageTokens]) * kKvPageTokens + position % kKvPageTokens) *
         kv_row_;
}

void AttentionLayer::Run(const StepBatch& batch, Residual io) {
  const int rows = batch.rows(), head_dim = spec_.head_dim;
  const float eps = step_.rms_eps;
  step_.MatMul({{q_, step_.normed, step_.wide.pointers()},
                {k_, step_.normed, step_.side_a.pointers()},
                {v_, step_.normed, step_.side_b.pointers()}},
               rows);
  // Every row's key and value stand in the cache before any row attends: rows of one group see each other.
  for (const RowGroup& group : batch.groups) {
    step_.pool.ParallelFor(group.rows, [&](int64_t t, int) {
      const int64_t row = group.first_row + t;
      const int position = group.position + static_cast<int>(t);
      rope_.Fill(static_cast<int>(row), position);
      float* k = step_.side_a.row(row);
      for (int h = 0; h < spec_.kv_heads; ++h) {
        float* head = k + h * head_dim;
        if (spec_.qk_norm) step_.kernels.floats->rms_norm(head, source_.k_norm.data(), head_dim, eps, head);
        rope_.Rotate(static_cast<int>(row), head);
      }
      const int64_t offset = KvOffset(group, position);
      std::copy_n(k, kv_row_, keys_.data() + offset);
      std::copy_n(step_.side_b.row(row), kv_row_, values_.data() + offset);
    });
  }
  for (const RowGroup& group : batch.groups) {
    step_.pool.ParallelFor(int64_t{group.rows} * spec_.query_heads, [&](int64_t item, int) {
      const int64_t t = item / spec_.query_heads;
      AttendHead(group, group.first_row + t, group.position + static_cast<int>(t),
                 static_cast<int>(item % spec_.query_heads));
    });
  }
  step_.pool.ParallelFor(rows, [&](int64_t i, int) { step_.mixed.Quantize(i, *step_.kernels.ints); });
  step_.MatMul({{o_, step_.mixed, step_.DeltaRows(rows, io)}}, rows);
}

void AttentionLayer::AttendHead(const RowGroup& group, int64_t row, int position, int head) {
  const int head_dim = spec_.head_dim;
  float* query = step_.wide.row(row) + static_cast<int64_t>(head) * head_dim * (spec_.output_gate ? 2 : 1);
  float* out = step_.mixed.row(row) + static_cast<int64_t>(head) * head_dim;
  if (spec_.qk_norm) step_.kernels.floats->rms_norm(query, source_.q_norm.data(), head_dim, step_.rms_eps, query);
  rope_.Rotate(static_cast<int>(row), query);
  float padded[kHeadDimMax];
  std::copy_n(query, head_dim, padded);
  std::fill(padded + head_dim, padded + PaddedTo16(head_dim), 0.0f);
  const int kv_head = head / (spec_.query_heads / spec_.kv_heads);
  float max = -std::numeric_limits<float>::infinity(), sum = 0;
  std::fill_n(out, head_dim, 0.0f);
  for (int page = 0; page <= position; page += kKvPageTokens) {
    const int first = std::max(page, group.first_key);
    const int64_t offset = KvOffset(group, first) + static_cast<int64_t>(kv_head) * head_dim;
    step_.kernels.floats->attend_page({.query = padded,
                                       .keys = keys_.data() + offset,
                                       .values = values_.data() + offset,
                                       .stride = kv_row_,
                                       .count = std::min(page + kKvPageTokens, position + 1) - first,
                                       .head_dim = head_dim,
                                       .scale = spec_.score_scale,
                                       .max = &max,
                                       .sum = &sum,
                                       .acc = out});
  }
  step_.kernels.floats->gate_by_sigmoid(out, 1.0f / sum, spec_.output_gate ? query + head_dim : nullptr, head_dim);
}

}  // namespace gantry::engine::cpu
