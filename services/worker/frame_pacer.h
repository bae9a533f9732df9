// How often a sequence sends what it has generated.
//
// A frame costs the same few hundred microseconds of all processes on its way whether it holds one token or ten, and a
// fast model beside many streams makes more frames than anybody can see: they would take the cores from the engine. So
// all sequences together get a number of frames a second; what a sequence generates between two of its own is sent with
// the next. A sequence alone, and a model slower than the limit, send every round.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>

namespace gantry::worker {

class FramePacer {
 public:
  // Nobody waits longer for a frame, however many sequences there are.
  static constexpr std::chrono::milliseconds kLongestInterval{50};

  // 0: no limit.
  explicit FramePacer(int frames_per_s) : frames_per_s_(frames_per_s) {}

  // A sequence's, from its beginning to its end. Any thread. `pacer` outlives it.
  class Place {
   public:
    explicit Place(FramePacer* pacer) : pacer_(pacer) { pacer_->sequences_.fetch_add(1, std::memory_order_relaxed); }
    ~Place() { pacer_->sequences_.fetch_sub(1, std::memory_order_relaxed); }
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;

   private:
    FramePacer* const pacer_;
  };

  // Between two frames of one sequence. Any thread.
  std::chrono::nanoseconds Interval() const {
    if (frames_per_s_ == 0) return std::chrono::nanoseconds(0);
    const std::chrono::nanoseconds fair = std::chrono::seconds(1) * sequences_.load(std::memory_order_relaxed);
    return std::min<std::chrono::nanoseconds>(kLongestInterval, fair / frames_per_s_);
  }

 private:
  const int frames_per_s_;
  std::atomic<int> sequences_{0};
};

}  // namespace gantry::worker
