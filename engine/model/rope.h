// Rotary position embedding: how checkpoints state their frequencies, and the turn of a pair at a position.
//
// Angles are products in float64: at position 262,143 they are right to 1e-10, where float32 has lost six digits.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "engine/model/model_spec.h"

namespace gantry::engine {

// Half-split pairs, frequencies theta^(-2 p / rotary_dim).
RopeSpec PlainRope(int rotary_dim, double theta);

// All frequencies divided by `factor`.
void StretchLinearly(double factor, RopeSpec* rope);

// Llama 3.1: long wavelengths are divided by `factor`, short ones stay, those between are blended.
struct Llama3Stretch {
  double factor = 8;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  double original_context = 8192;  // positions
};
void StretchLikeLlama3(const Llama3Stretch& stretch, RopeSpec* rope);

// YaRN (https://arxiv.org/abs/2309.00071) as transformers computes it: pairs that turn often within the original
// context stay, pairs that turn seldom are divided by `factor`, with a ramp between; cosine and sine are multiplied by
// `magnitude`.
struct YarnStretch {
  double theta = 10000;
  double factor = 1;
  double original_context = 4096;  // positions
  double beta_fast = 32;           // turns within the original context
  double beta_slow = 1;
  bool truncate = true;  // the ramp begins and ends at whole pairs
  double magnitude = 1;
};
void StretchLikeYarn(const YarnStretch& stretch, RopeSpec* rope);
// The magnitude where a checkpoint states none: 0.1 ln(factor) + 1.
double YarnMagnitude(double factor, double scale = 1.0);

struct RopeTurn {
  double cosine, sine;  // magnitude included
};
inline RopeTurn TurnAt(const RopeSpec& rope, int position, int pair) {
  const double angle = position * rope.frequencies[pair];
  return {rope.magnitude * std::cos(angle), rope.magnitude * std::sin(angle)};
}
// Where in a head the two numbers of a pair stand.
inline int FirstOfPair(const RopeSpec& rope, int pair) {
  return rope.interleaved ? 2 * pair : pair;
}
inline int SecondOfPair(const RopeSpec& rope, int pair) {
  return rope.interleaved ? 2 * pair + 1 : pair + rope.rotary_dim / 2;
}

}  // namespace gantry::engine
