#include "engine/model/rope.h"

#include <algorithm>
#include <numbers>

namespace gantry::engine {

RopeSpec PlainRope(int rotary_dim, double theta) {
  RopeSpec rope;
  rope.rotary_dim = rotary_dim;
  for (int pair = 0; pair < rotary_dim / 2; ++pair) {
    rope.frequencies.push_back(std::pow(theta, -2.0 * pair / rotary_dim));
  }
  return rope;
}

void StretchLinearly(double factor, RopeSpec* rope) {
  for (double& frequency : rope->frequencies) frequency /= factor;
}

void StretchLikeLlama3(const Llama3Stretch& stretch, RopeSpec* rope) {
  const double low = stretch.low_frequency_factor, high = stretch.high_frequency_factor;
  for (double& frequency : rope->frequencies) {
    const double turns = stretch.original_context * frequency / (2 * std::numbers::pi);
    if (turns > high) continue;
    const double kept = turns < low ? 0 : (turns - low) / (high - low);
    frequency = (1 - kept) * frequency / stretch.factor + kept * frequency;
  }
}

void StretchLikeYarn(const YarnStretch& stretch, RopeSpec* rope) {
  const int dim = rope->rotary_dim;
  // The (fractional) pair that makes this many turns within the original context.
  const auto pair_of_turns = [&](double turns) {
    return dim * std::log(stretch.original_context / (2 * std::numbers::pi * turns)) / (2 * std::log(stretch.theta));
  };
  double low = pair_of_turns(stretch.beta_fast), high = pair_of_turns(stretch.beta_slow);
  if (stretch.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  for (int pair = 0; pair < dim / 2; ++pair) {
    const double ramp = std::clamp((pair - low) / (high - low), 0.0, 1.0);
    double& frequency = rope->frequencies[pair];
    frequency = frequency / stretch.factor * ramp + frequency * (1 - ramp);
  }
  rope->magnitude = stretch.magnitude;
}

double YarnMagnitude(double factor, double scale) {
  return factor > 1 ? 0.1 * scale * std::log(factor) + 1 : 1;
}

}  // namespace gantry::engine
