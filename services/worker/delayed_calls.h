// Runs functions later. One thread for all of them; what is still due when this ends is dropped.
#pragma once

#include <functional>
#include <memory>

#include "absl/time/time.h"

namespace gantry::worker {

class DelayedCalls {
 public:
  DelayedCalls();
  ~DelayedCalls();
  DelayedCalls(const DelayedCalls&) = delete;
  DelayedCalls& operator=(const DelayedCalls&) = delete;

  // `call` runs once `after` has passed, on the thread of this; it must not block. Any thread.
  void After(absl::Duration after, std::function<void()> call);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gantry::worker
