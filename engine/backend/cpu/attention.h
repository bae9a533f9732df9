// Softmax attention over paged KV, one layer of it.
//
// Folding. Positions are folded page by page within spans of kSpanPages pages; spans begin at multiples of their length
// from position 0, are folded on their own and merged in ascending order (kernels.h says how pages are folded and spans
// merged). So the bits of a query depend on its position and the cache alone, not on who folds which span: a long
// context is split over threads by spans.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/blocks.h"
#include "engine/backend/cpu/kv_cache.h"
#include "engine/backend/cpu/step.h"
#include "engine/backend/cpu/weights.h"
#include "engine/model/model.h"

namespace gantry::engine::cpu {

// Running softmaxes of several queries.
struct AttentionStates {
  int64_t dim = 0;  // padded head_dim
  std::vector<float> max, sum, acc;

  void Resize(int64_t count, int64_t padded_dim) {
    dim = padded_dim;
    max.resize(count);
    sum.resize(count);
    acc.resize(count * padded_dim);
  }
  int64_t size() const { return static_cast<int64_t>(max.size()); }
  void Clear(int64_t first, int64_t count);
  AttentionState at(int64_t i) { return {&max[i], &sum[i], &acc[i * dim]}; }
};

// Working memory of attention, shared by all layers of one shape or another.
struct AttentionBuffers {
  // Consecutive rows of one group that share a KV head, and the spans to fold for them.
  struct Item {
    const RowGroup* group = nullptr;
    int kv_head = 0;
    int first = 0, rows = 0;  // of the group
    int begin_span = 0, end_span = 0;
    int64_t part = -1;  // where in `parts` this item's one span goes; -1: the item folds all spans and finishes
  };
  struct Thread {
    AttentionStates folded, span;     // [queries_max]
    std::vector<const float*> query;  // [queries_max]
    std::vector<int> count;           // [queries_max]
  };

  // Grows to what a layer of this shape needs; 32 MiB of parts at most.
  void Fit(const AttentionSpec& spec, const BlocksLimits& limits, int threads);

  int queries_max = 0;  // of one item
  std::vector<Thread> threads;
  AttentionStates parts;
  std::vector<const RowGroup*> group_of;  // [rows]
  std::vector<Item> items;
  std::vector<int> splits;  // the first item of each block that was cut into spans
};

class AttentionLayer {
 public:
  static constexpr int kHeadDimMax = 1024;
  static constexpr int kSpanPages = 8;

  // `memory`: limits.kv_pages * KvPageBytes, zeroed; the caller's.
  AttentionLayer(const AttentionSpec& spec, const AttentionWeights& weights, const BlocksLimits& limits,
                 uint8_t* memory, WeightStore* store, Step* step, AttentionBuffers* buffers);
  static int64_t KvPageBytes(const AttentionSpec& spec, KvType type);
  // Reads step.normed, extends the pages, writes io.delta.
  void Run(const StepBatch& batch, Residual io);
  void ZeroPage(KvPage page);

 private:
  using Item = AttentionBuffers::Item;

  int QueriesPerRow() const { return spec_.query_heads / spec_.kv_heads; }
  float* Query(int64_t row, int head);
  void PrepareRow(const RowGroup& group, int64_t row);
  void PlanItems(const StepBatch& batch);
  void RunItem(const Item& item, int thread);
  void FoldSpan(const Item& item, int span, AttentionBuffers::Thread* own, AttentionStates* into, int64_t at);
  void MergeParts(int first_item);
  void Finish(const Item& item, int query, const AttentionState& state);

  const AttentionSpec& spec_;
  const AttentionWeights& source_;
  Step& step_;
  AttentionBuffers& buffers_;
  Weight q_, k_, v_, o_;
  KvCache cache_;
  RopeTable& rope_;
};

}  // namespace gantry::engine::cpu
