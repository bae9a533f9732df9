#include "services/worker/delayed_calls.h"

#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/time/clock.h"

namespace gantry::worker {

struct DelayedCalls::Impl {
  std::mutex mutex;
  std::condition_variable changed;
  std::multimap<absl::Time, std::function<void()>> due;
  bool stopping = false;
  std::thread thread;

  void Loop() {
    std::unique_lock lock(mutex);
    while (!stopping) {
      if (due.empty()) {
        changed.wait(lock);
        continue;
      }
      const absl::Time first = due.begin()->first;
      if (first > absl::Now()) {
        changed.wait_until(lock, absl::ToChronoTime(first));
        continue;
      }
      std::function<void()> call = std::move(due.begin()->second);
      due.erase(due.begin());
      lock.unlock();
      call();
      call = nullptr;
      lock.lock();
    }
  }
};

DelayedCalls::DelayedCalls() : impl_(std::make_unique<Impl>()) {
  impl_->thread = std::thread([i = impl_.get()] { i->Loop(); });
}

DelayedCalls::~DelayedCalls() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->changed.notify_all();
  impl_->thread.join();
}

void DelayedCalls::After(absl::Duration after, std::function<void()> call) {
  bool first = false;
  {
    std::lock_guard lock(impl_->mutex);
    const auto place = impl_->due.emplace(absl::Now() + after, std::move(call));
    first = place == impl_->due.begin();
  }
  if (first) impl_->changed.notify_all();
}

}  // namespace gantry::worker
