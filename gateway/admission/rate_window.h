// One limit per minute: a window of 60 s that begins with its first use. Not thread-safe; time comes in.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace gantry::gateway {

class RateWindow {
 public:
  static constexpr absl::Duration kLength = absl::Seconds(60);

  // Whether `amount` more fits under `limit`. Takes nothing.
  bool Fits(absl::Duration now, uint64_t amount, uint64_t limit) {
    Roll(now);
    return used_ <= limit && amount <= limit - used_;
  }
  void Take(absl::Duration now, uint64_t amount) {
    Roll(now);
    if (used_ == 0) start_ = now;
    used_ += amount;
  }
  // What was taken as `taken` at `when` turned out to be `actual`. An excess is owed now, whichever window this is; too
  // much taken is given back only while its window lasts.
  void Correct(absl::Duration now, absl::Duration when, uint64_t taken, uint64_t actual) {
    Roll(now);
    if (actual > taken) {
      if (used_ == 0) start_ = now;
      used_ += actual - taken;
    } else if (when >= start_) {
      used_ -= std::min(used_, taken - actual);
    }
  }
  uint64_t used(absl::Duration now) {
    Roll(now);
    return used_;
  }
  // Until the window ends; zero when it is empty.
  absl::Duration reset(absl::Duration now) {
    Roll(now);
    return used_ == 0 ? absl::ZeroDuration() : start_ + kLength - now;
  }
  // Since the window began. REQUIRES: something is used.
  absl::Duration age(absl::Duration now) const { return now - start_; }
  // Goes on with what somebody else has counted.
  void Adopt(absl::Duration start, uint64_t used) {
    start_ = start;
    used_ = used;
  }

 private:
  void Roll(absl::Duration now) {
    if (now - start_ >= kLength) used_ = 0;
  }
  absl::Duration start_ = -absl::InfiniteDuration();
  uint64_t used_ = 0;
};

}  // namespace gantry::gateway
