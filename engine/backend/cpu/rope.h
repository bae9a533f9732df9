// Rotary position embedding with the angles of a batch computed once, for all layers that turn alike.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/cpu/kernels.h"
#include "engine/model/model_spec.h"
#include "engine/model/rope.h"

namespace gantry::engine::cpu {

class RopeTable {
 public:
  // `rope` outlives the table.
  RopeTable(const RopeSpec& rope, int max_rows)
      : rope_(rope),
        half_(rope.rotary_dim / 2),
        position_(max_rows, -1),
        cosine_(static_cast<size_t>(max_rows) * half_),
        sine_(cosine_.size()) {}

  bool TurnsLike(const RopeSpec& rope) const {
    return rope.rotary_dim == rope_.rotary_dim && rope.interleaved == rope_.interleaved &&
           rope.frequencies == rope_.frequencies && rope.magnitude == rope_.magnitude;
  }

  void Fill(int row, int position) {
    if (position_[row] == position) return;
    position_[row] = position;
    for (int pair = 0; pair < half_; ++pair) {
      const RopeTurn turn = TurnAt(rope_, position, pair);
      cosine_[static_cast<size_t>(row) * half_ + pair] = static_cast<float>(turn.cosine);
      sine_[static_cast<size_t>(row) * half_ + pair] = static_cast<float>(turn.sine);
    }
  }

  void Rotate(int row, const Kernels& kernels, float* head) const {
    const float* cosine = cosine_.data() + static_cast<size_t>(row) * half_;
    const float* sine = sine_.data() + static_cast<size_t>(row) * half_;
    if (!rope_.interleaved) return kernels.rotate(head, half_, cosine, sine);
    for (int pair = 0; pair < half_; ++pair) {
      float& x = head[FirstOfPair(rope_, pair)];
      float& y = head[SecondOfPair(rope_, pair)];
      const float a = x, b = y;
      x = a * cosine[pair] - b * sine[pair];
      y = b * cosine[pair] + a * sine[pair];
    }
  }

 private:
  const RopeSpec& rope_;
  int half_;
  std::vector<int> position_;         // of a row's angles; -1: none yet
  std::vector<float> cosine_, sine_;  // [max_rows, half]
};

}  // namespace gantry::engine::cpu
