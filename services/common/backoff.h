// How long to wait before trying again: doubles from `initial` to `max`, each wait drawn from [half, whole] so that
// peers that lost the same server do not return in step. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/random/random.h"
#include "absl/time/time.h"

namespace gantry {

class Backoff {
 public:
  Backoff(absl::Duration initial, absl::Duration max) : initial_(initial), max_(max), next_(initial) {}

  absl::Duration Next() {
    absl::Duration whole = next_;
    next_ = std::min(next_ * 2, max_);
    return whole * absl::Uniform(random_, 0.5, 1.0);
  }
  // Call after a success that lasted.
  void Reset() { next_ = initial_; }

 private:
  absl::Duration initial_;
  absl::Duration max_;
  absl::Duration next_;
  absl::InsecureBitGen random_;
};

}  // namespace gantry
