// One limit per minute of which billing has leased this gateway a part (R8). Not thread-safe; time comes in.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"
#include "gateway/admission/rate_window.h"

namespace gantry::gateway {

class LeasedWindow {
 public:
  // What is leased and not used. Ends with the window, whose end is counted from sending what was answered.
  uint64_t left(absl::Duration now) const { return now < until_ ? left_ : 0; }
  // Leased in the window that runs, used or not.
  uint64_t leased(absl::Duration now) const { return now < until_ ? leased_ : 0; }
  uint64_t used_here(absl::Duration now) const { return leased(now) - left(now); }
  // By all gateways, as far as is known.
  uint64_t used_by_all(absl::Duration now) const {
    return now < until_ ? known_used_ - std::min(known_used_, left_) : 0;
  }
  uint64_t number() const { return number_; }
  absl::Duration reset(absl::Duration now) const { return now < until_ ? until_ - now : absl::ZeroDuration(); }
  absl::Duration start() const { return until_ - RateWindow::kLength; }

  // Billing has answered: `granted` more of window `number`, which ends at `until`.
  void Grant(uint64_t number, uint64_t granted, uint64_t known_used, absl::Duration until) {
    if (number != number_) {
      left_ = leased_ = 0;
      number_ = number;
      until_ = until;
    }
    until_ = std::max(until_, until);
    left_ += granted;
    leased_ += granted;
    known_used_ = known_used;
  }
  // Goes on with what was counted alone and reported: all of it is used.
  void Adopt(absl::Duration start, uint64_t used) {
    number_ = left_ = 0;
    leased_ = known_used_ = used;
    until_ = start + RateWindow::kLength;
  }
  // REQUIRES: amount <= left(now).
  void Take(uint64_t amount) { left_ -= amount; }
  // Takes what there is of it; returns the rest.
  uint64_t TakeUpTo(absl::Duration now, uint64_t amount) {
    const uint64_t taken = std::min(amount, left(now));
    left_ -= taken;
    return amount - taken;
  }
  // What was taken of window `number` was not needed.
  void GiveBack(absl::Duration now, uint64_t number, uint64_t amount) {
    if (number == number_ && now < until_) left_ = std::min(leased_, left_ + amount);
  }
  // All that is left goes back to billing.
  uint64_t Return(absl::Duration now) {
    const uint64_t back = left(now);
    leased_ -= std::min(leased_, back);
    known_used_ -= std::min(known_used_, back);
    left_ = 0;
    return back;
  }

 private:
  uint64_t number_ = 0;
  uint64_t left_ = 0;
  uint64_t leased_ = 0;
  uint64_t known_used_ = 0;
  absl::Duration until_ = -absl::InfiniteDuration();
};

}  // namespace gantry::gateway
