// The gated delta net, one layer of it: convolution, recurrence, gated norm.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/blocks.h"
#include "engine/backend/cpu/step.h"
#include "engine/backend/cpu/weights.h"
#include "engine/model/model.h"

namespace gantry::engine::cpu {

class DeltaNetLayer {
 public:
  static constexpr int kKeyDimMax = 256;

  // `memory`: limits.state_slots * StateSlotBytes, zeroed; the caller's.
  DeltaNetLayer(const GatedDeltaNetSpec& spec, const GatedDeltaNetWeights& weights, const BlocksLimits& limits,
                uint8_t* memory, WeightStore* store, Step* step);
  static int64_t StateSlotBytes(const GatedDeltaNetSpec& spec);
  // Reads step.normed and state_in, writes state_out and io.delta.
  void Run(const StepBatch& batch, Residual io);
  void ZeroState(StateSlot slot);
  void CopyState(StateSlot from, StateSlot to);

 private:
  static int64_t StateSize(const GatedDeltaNetSpec& spec);
  static int64_t ColumnSize(const GatedDeltaNetSpec& spec);
  void Convolve(const RowGroup& group, int head, float* history);
  void RunHead(const RowGroup& group, int head);
  void Normalise(float* vector, float length) const;
  float* HeadOutput(int64_t row, int head);

  const GatedDeltaNetSpec& spec_;
  const GatedDeltaNetWeights& source_;
  Step& step_;
  Weight qkv_, z_, b_, a_, out_;
  std::vector<float> taps_;  // [conv_kernel, channels]
  int slabs_;                // of 16 value columns
  int64_t state_size_, column_size_;
  float* states_;               // [slots, value_heads, slabs, key_dim, 16]
  float* columns_;              // [slots, conv_kernel - 1, channels], oldest first
  int64_t history_size_;        // of one thread
  std::vector<float> history_;  // [threads, conv_kernel - 1, channels of a head]
};

}  // namespace gantry::engine::cpu
