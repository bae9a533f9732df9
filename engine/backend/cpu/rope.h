// Rotary position embedding with the angles of a batch computed once.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/model_spec.h"
#include "engine/model/rope.h"

namespace gantry::engine::cpu {

class RopeTable {
 public:
  // `rope` outlives the table.
  void Prepare(const RopeSpec& rope, int max_rows) {
    rope_ = &rope;
    half_ = rope.rotary_dim / 2;
    cosine_.resize(static_cast<size_t>(max_rows) * half_);
    sine_.resize(cosine_.size());
  }

  void Fill(int row, int position) {
    for (int pair = 0; pair < half_; ++pair) {
      const RopeTurn turn = TurnAt(*rope_, position, pair);
      cosine_[static_cast<size_t>(row) * half_ + pair] = static_cast<float>(turn.cosine);
      sine_[static_cast<size_t>(row) * half_ + pair] = static_cast<float>(turn.sine);
    }
  }

  void Rotate(int row, float* head) const {
    const float* cosine = cosine_.data() + static_cast<size_t>(row) * half_;
    const float* sine = sine_.data() + static_cast<size_t>(row) * half_;
    for (int pair = 0; pair < half_; ++pair) {
      float& x = head[FirstOfPair(*rope_, pair)];
      float& y = head[SecondOfPair(*rope_, pair)];
      const float a = x, b = y;
      x = a * cosine[pair] - b * sine[pair];
      y = b * cosine[pair] + a * sine[pair];
    }
  }

 private:
  const RopeSpec* rope_ = nullptr;
  int half_ = 0;
  std::vector<float> cosine_, sine_;  // [max_rows, half]
};

}  // namespace gantry::engine::cpu
