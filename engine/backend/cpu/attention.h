// Softmax attention over paged KV, one layer of it.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/blocks.h"
#include "engine/backend/cpu/rope.h"
#include "engine/backend/cpu/step.h"
#include "engine/backend/cpu/weights.h"
#include "engine/model/model.h"

namespace gantry::engine::cpu {

class AttentionLayer {
 public:
  static constexpr int kHeadDimMax = 1024;

  AttentionLayer(const AttentionSpec& spec, const AttentionWeights& weights, const BlocksLimits& limits,
                 WeightStore* store, Step* step);
  static int64_t KvPageBytes(const AttentionSpec& spec);
  // Reads step.normed, extends the pages, writes io.delta.
  void Run(const StepBatch& batch, Residual io);
  void ZeroPage(KvPage page);

 private:
  int64_t KvOffset(const RowGroup& group, int position) const;
  void AttendHead(const RowGroup& group, int64_t row, int position, int head);

  const AttentionSpec& spec_;
  const AttentionWeights& source_;
  Step& step_;
  Weight q_, k_, v_, o_;
  RopeTable rope_;
  int kv_row_;                        // kv_heads * head_dim
  std::vector<float> keys_, values_;  // [pages, 64, kv_row]
};

}  // namespace gantry::engine::cpu
