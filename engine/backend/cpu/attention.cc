#include "engine/backend/cpu/attention.h"

#include <algorithm>
#include <limits>

#include "engine/base/check.h"

namespace gantry::engine::cpu {
namespace {

constexpr int kSpanTokens = AttentionLayer::kSpanPages * kKvPageTokens;

int SpansOf(int positions) {
  return (positions + kSpanTokens - 1) / kSpanTokens;
}

// Queries that share the keys and values of a page while these are in the nearest caches.
constexpr int kQueriesOfItem = 32;
constexpr int64_t kPartsBytesMax = int64_t{32} << 20;

}  // namespace

void AttentionStates::Clear(int64_t first, int64_t count) {
  std::fill_n(max.begin() + first, count, -std::numeric_limits<float>::infinity());
  std::fill_n(sum.begin() + first, count, 0.0f);
  std::fill_n(acc.begin() + first * dim, count * dim, 0.0f);
}

void AttentionBuffers::Fit(const AttentionSpec& spec, const BlocksLimits& limits, int thread_count) {
  queries_max = std::max({queries_max, kQueriesOfItem, spec.query_heads / spec.kv_heads});
  const int64_t dim = std::max(parts.dim, PaddedTo16(spec.head_dim));
  threads.resize(thread_count);
  for (Thread& thread : threads) {
    thread.folded.Resize(queries_max, dim);
    thread.span.Resize(queries_max, dim);
    thread.query.resize(queries_max);
    thread.count.resize(queries_max);
  }
  const int64_t one_row = int64_t{spec.query_heads} * SpansOf(limits.kv_pages * kKvPageTokens);
  parts.Resize(std::max(parts.size(), std::min(4 * one_row, kPartsBytesMax / (dim * int64_t{sizeof(float)}))), dim);
  group_of.resize(limits.max_rows);
  const int64_t blocks = int64_t{spec.kv_heads} * limits.max_rows;
  items.reserve(std::max<size_t>(items.capacity(), blocks + parts.size()));
  splits.reserve(std::max<size_t>(splits.capacity(), blocks));
}

AttentionLayer::AttentionLayer(const AttentionSpec& spec, const AttentionWeights& weights, const BlocksLimits& limits,
                               uint8_t* memory, WeightStore* store, Step* step, AttentionBuffers* buffers)
    : spec_(spec),
      source_(weights),
      step_(*step),
      buffers_(*buffers),
      q_(store->Add(weights.q)),
      k_(store->Add(weights.k)),
      v_(store->Add(weights.v)),
      o_(store->Add(weights.o)),
      cache_(FormatOf(limits.kv_type), spec.kv_heads, spec.head_dim, memory),
      rope_(step->Rope(spec.rope, limits.max_rows)) {
  Require(&step->normed, {&q_, &k_, &v_});
  Require(&step->mixed, {&o_});
  buffers->Fit(spec, limits, step->pool.threads());
}

int64_t AttentionLayer::KvPageBytes(const AttentionSpec& spec, KvType type) {
  return KvCache::PageBytes(FormatOf(type), spec.kv_heads, spec.head_dim);
}

void AttentionLayer::ZeroPage(KvPage page) {
  std::fill_n(cache_.page(page), cache_.page_bytes(), uint8_t{0});
}

float* AttentionLayer::Query(int64_t row, int head) {
  return step_.wide.row(row) + static_cast<int64_t>(head) * spec_.head_dim * (spec_.output_gate ? 2 : 1);
}

void AttentionLayer::Run(const StepBatch& batch, Residual io) {
  const int rows = batch.rows();
  step_.MatMul({{q_, step_.normed, step_.wide.pointers()},
                {k_, step_.normed, step_.side_a.pointers()},
                {v_, step_.normed, step_.side_b.pointers()}},
               rows);
  // Every row's key and value stand in the cache before any row attends: rows of one group see each other.
  for (const RowGroup& group : batch.groups) {
    std::fill_n(buffers_.group_of.begin() + group.first_row, group.rows, &group);
  }
  step_.pool.ParallelFor(rows, [&](int64_t row, int) { PrepareRow(*buffers_.group_of[row], row); });
  PlanItems(batch);
  step_.pool.ParallelFor(static_cast<int64_t>(buffers_.items.size()),
                         [&](int64_t i, int thread) { RunItem(buffers_.items[i], thread); });
  step_.pool.ParallelFor(static_cast<int64_t>(buffers_.splits.size()),
                         [&](int64_t i, int) { MergeParts(buffers_.splits[i]); });
  step_.pool.ParallelFor(rows, [&](int64_t i, int) { step_.mixed.Convert(i, step_.kernels); });
  step_.MatMul({{o_, step_.mixed, step_.DeltaRows(rows, io)}}, rows);
}

// Norms and turns the row's queries and keys, and writes its keys and values.
void AttentionLayer::PrepareRow(const RowGroup& group, int64_t row) {
  const int position = group.position + static_cast<int>(row - group.first_row), head_dim = spec_.head_dim;
  const Kernels& kernels = *step_.kernels.floats;
  rope_.Fill(static_cast<int>(row), position);
  const auto prepare = [&](float* head, const std::vector<float>& norm) {
    if (spec_.qk_norm) kernels.rms_norm(head, norm.data(), head_dim, step_.rms_eps, head);
    rope_.Rotate(static_cast<int>(row), kernels, head);
  };
  for (int h = 0; h < spec_.query_heads; ++h) prepare(Query(row, h), source_.q_norm);
  for (int h = 0; h < spec_.kv_heads; ++h) {
    float* key = step_.side_a.row(row) + static_cast<int64_t>(h) * head_dim;
    prepare(key, source_.k_norm);
    kernels.write_kv(cache_.At(group.pages[position / kKvPageTokens], h), position % kKvPageTokens, key,
                     step_.side_b.row(row) + static_cast<int64_t>(h) * head_dim);
  }
}

// One item for each KV head of each block of rows; where one of them alone would keep a thread busy for long, one for
// each of its spans, as far as there is room for their parts.
void AttentionLayer::PlanItems(const StepBatch& batch) {
  const int per_row = QueriesPerRow(), block = std::max(1, kQueriesOfItem / per_row);
  buffers_.items.clear();
  buffers_.splits.clear();
  int64_t work = 0;  // query positions
  for (const RowGroup& group : batch.groups) {
    work += int64_t{spec_.query_heads} * group.rows * (group.position + (group.rows + 1) / 2);
  }
  const int threads = step_.pool.threads();
  const int64_t much = threads == 1 ? std::numeric_limits<int64_t>::max() : work / (4 * threads);
  int64_t parts = 0;
  for (const RowGroup& group : batch.groups) {
    for (int first = (group.rows - 1) / block * block; first >= 0; first -= block) {
      const int rows = std::min(block, group.rows - first), end = group.position + first + rows;
      const int spans = SpansOf(end), queries = rows * per_row;
      const bool split = spans > 1 && int64_t{queries} * end > much;
      for (int head = 0; head < spec_.kv_heads; ++head) {
        if (!split || parts + int64_t{spans} * queries > buffers_.parts.size()) {
          buffers_.items.push_back({&group, head, first, rows, 0, spans, -1});
          continue;
        }
        buffers_.splits.push_back(static_cast<int>(buffers_.items.size()));
        for (int span = 0; span < spans; ++span, parts += queries) {
          buffers_.items.push_back({&group, head, first, rows, span, span + 1, parts});
        }
      }
    }
  }
}

void AttentionLayer::RunItem(const Item& item, int thread) {
  AttentionBuffers::Thread& own = buffers_.threads[thread];
  const int queries = item.rows * QueriesPerRow();
  if (item.part >= 0) return FoldSpan(item, item.begin_span, &own, &buffers_.parts, item.part);
  FoldSpan(item, 0, &own, &own.folded, 0);
  for (int span = 1; span < item.end_span; ++span) {
    FoldSpan(item, span, &own, &own.span, 0);
    for (int q = 0; q < queries; ++q) {
      if (item.group->position + item.first + q / QueriesPerRow() < span * kSpanTokens) continue;
      step_.kernels.floats->merge_attention(own.folded.at(q), own.span.at(q), spec_.head_dim);
    }
  }
  for (int q = 0; q < queries; ++q) Finish(item, q, own.folded.at(q));
}

// Queries of an item, row by row, into states [at, at + queries); those before the span stay cleared.
void AttentionLayer::FoldSpan(const Item& item, int span, AttentionBuffers::Thread* own, AttentionStates* into,
                              int64_t at) {
  const int per_row = QueriesPerRow(), queries = item.rows * per_row;
  const RowGroup& group = *item.group;
  const int first_position = group.position + item.first;
  into->Clear(at, queries);
  for (int q = 0; q < queries; ++q) {
    own->query[q] = Query(group.first_row + item.first + q / per_row, item.kv_head * per_row + q % per_row);
  }
  const int last = first_position + item.rows, end = std::min((span + 1) * kSpanTokens, last);
  for (int page = span * kSpanTokens; page < end; page += kKvPageTokens) {
    // Rows before the page see nothing of it.
    const int skipped = std::max(0, page - first_position) * per_row;
    for (int q = skipped; q < queries; ++q) {
      own->count[q] = std::min(kKvPageTokens, first_position + q / per_row + 1 - page);
    }
    const int next = page + kKvPageTokens;
    const AttentionState state = into->at(at + skipped);
    step_.kernels.floats->attend_page(
        {.kv = cache_.At(group.pages[page / kKvPageTokens], item.kv_head),
         .scale = spec_.score_scale,
         .queries = queries - skipped,
         .query = own->query.data() + skipped,
         .count = own->count.data() + skipped,
         .most = own->count[queries - 1],
         .skip = page == 0 ? group.first_key : 0,
         .next_keys = next < last ? cache_.At(group.pages[next / kKvPageTokens], item.kv_head).keys : nullptr,
         .max = state.max,
         .sum = state.sum,
         .acc = state.acc,
         .acc_stride = into->dim});
  }
}

void AttentionLayer::MergeParts(int first_item) {
  const Item* item = &buffers_.items[first_item];
  const int queries = item->rows * QueriesPerRow(), spans = SpansOf(item->group->position + item->first + item->rows);
  for (int q = 0; q < queries; ++q) {
    const AttentionState folded = buffers_.parts.at(item->part + q);
    const int position = item->group->position + item->first + q / QueriesPerRow();
    for (int span = 1; span < spans && span * kSpanTokens <= position; ++span) {
      step_.kernels.floats->merge_attention(folded, buffers_.parts.at(item[span].part + q), spec_.head_dim);
    }
    Finish(*item, q, folded);
  }
}

void AttentionLayer::Finish(const Item& item, int query, const AttentionState& state) {
  const int per_row = QueriesPerRow(), head_dim = spec_.head_dim, head = item.kv_head * per_row + query % per_row;
  const int64_t row = item.group->first_row + item.first + query / per_row;
  float* out = step_.mixed.row(row) + static_cast<int64_t>(head) * head_dim;
  std::copy_n(state.acc, head_dim, out);
  step_.kernels.floats->gate_by_sigmoid(out, 1.0f / *state.sum,
                                        spec_.output_gate ? Query(row, head) + head_dim : nullptr, head_dim);
}

}  // namespace gantry::engine::cpu
