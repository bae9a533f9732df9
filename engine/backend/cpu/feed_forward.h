// Dense SwiGLU or a mixture of experts, one layer of it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/backend/blocks.h"
#include "engine/backend/cpu/step.h"
#include "engine/backend/cpu/weights.h"
#include "engine/model/model.h"

namespace gantry::engine::cpu {

// Buffers that all feed-forward layers share.
struct ExpertBuffers {
  Rows router;                // [rows, experts]
  Rows shared;                // [rows, 1]: the shared expert's gate
  Rows gate, up, down;        // [rows * choices, width or hidden], in the order of experts
  std::vector<int> expert;    // [rows * choices]: who was chosen, row by row
  std::vector<float> weight;  // likewise
  std::vector<int> place;     // likewise: where in gate, up, down
  std::vector<int> begin;     // [experts + 1]: places of an expert
  std::vector<int> cursor;
  std::vector<int> active;                                             // experts that some row chose
  std::vector<int> order;                                              // [threads, experts]
  std::vector<float*> in;                                              // [places]: rows of step.normed
  std::array<std::vector<ActivationRow>, kActivationForms> converted;  // likewise in other forms
  // Grows to what a layer of this shape needs.
  void Fit(int64_t rows, int64_t choices, int64_t experts, int64_t width, int64_t hidden, int threads);
  int64_t rows_ = 0, choices_ = 0, experts_ = 0, width_ = 0;
};

class FeedForward {
 public:
  FeedForward(const FfnSpec& spec, const LayerWeights& weights, WeightStore* store, Step* step, ExpertBuffers* buffers);
  // What the largest layer needs; call for every layer, then Bind for every layer.
  void Fit(int max_rows);
  void Bind();
  // Reads step.normed, writes io.delta. `tape`: see Blocks::SetRouting; this is layer `layer` of it.
  void Run(const StepBatch& batch, RoutingTape* tape, int layer, Residual io);
  // Of the last Run; see Blocks::ExpertsRead.
  int experts_read() const { return experts_read_; }

 private:
  struct SwiGlu {
    Weight gate, up, down;
  };
  void Choose(const StepBatch& batch, RoutingTape* tape, int layer);
  void Route(const float* logits, absl::Span<const int> forced, int* order, int* expert, float* weight) const;
  void Group(int rows);
  const SwiGlu& weights_of(int expert) const {
    return has_shared_ && expert == experts_ - 1 ? shared_ : expert_weights_[expert];
  }
  template <typename WeightOf, typename Body>
  void ForExperts(const WeightOf& weight_of, const Body& body);

  const FfnSpec& spec_;
  Step& step_;
  ExpertBuffers& buffers_;
  bool mixture_ = false, has_shared_ = false;
  int experts_ = 1;  // the shared one included, last
  int choices_ = 1;  // of each row
  int experts_read_ = 0;
  Weight router_, shared_gate_;
  std::vector<SwiGlu> expert_weights_;
  SwiGlu shared_;
  std::array<bool, kActivationForms> takes_{};  // gate or up take this form
};

}  // namespace gantry::engine::cpu
