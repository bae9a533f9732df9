#include "engine/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <string>

namespace gantry::engine {
namespace {

constexpr std::chrono::microseconds kSpin{50};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Until `changed` or the spin is over; true when changed.
template <typename Predicate>
bool Spin(const Predicate& changed) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (changed()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return changed();
}

// Offers the calling thread's core to whoever waits for it, now and then: a scheduler may look for a better claim only
// at its tick, every 4 ms, and a gateway's thread wants the core for microseconds. Who keeps it for long computes as we
// do, and would have got it at the tick: no offer is made again for a multiple of that time, so that offers cost little
// whatever else runs. docs/decisions/0007-engine-gives-way.md
void OfferCore() {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::microseconds kEvery{200};
  constexpr int kRest = 6;
  thread_local Clock::time_point next{};
  const Clock::time_point before = Clock::now();
  if (before < next) return;
  sched_yield();
  const Clock::time_point after = Clock::now();
  next = after + std::max<Clock::duration>(kEvery, kRest * (after - before));
}

// Of cgroup v2 ("max 100000" or "150000 100000"); a very large number without a quota.
double CgroupQuota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 1e9;
  return std::strtod(quota.c_str(), nullptr) / period;
}

}  // namespace

int UsableThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set)
                                                          : static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, static_cast<int>(std::min<double>(cpus, std::floor(CgroupQuota() + 0.01))));
}

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = UsableThreads();
  stretches_ = std::vector<Stretch>(threads);
  for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { HelperLoop(i); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::Run(int64_t count, Function function, const void* context) {
  if (helpers_.empty() || count <= 1) {
    for (int64_t i = 0; i < count; ++i) function(context, i, 0);
    return;
  }
  function_ = function;
  context_ = context;
  for (int i = 0; i < threads(); ++i) {
    stretches_[i].next.store(count * i / threads(), std::memory_order_relaxed);
    stretches_[i].end = count * (i + 1) / threads();
  }
  const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  gate_.store(uint64_t{generation} << 32, std::memory_order_release);
  generation_.store(generation, std::memory_order_release);
  generation_.notify_all();
  Work(0);
  uint64_t gate = gate_.fetch_or(kClosed, std::memory_order_acq_rel);
  const auto done = [this] { return (gate_.load(std::memory_order_acquire) & kJoined) == 0; };
  while (!Spin(done)) {
    gate = gate_.load(std::memory_order_acquire);
    if ((gate & kJoined) != 0) gate_.wait(gate, std::memory_order_acquire);
  }
}

bool ThreadPool::Join(uint32_t generation) {
  uint64_t gate = gate_.load(std::memory_order_acquire);
  while (gate >> 32 == generation && (gate & kClosed) == 0) {
    if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel, std::memory_order_acquire)) return true;
  }
  return false;
}

void ThreadPool::Leave() {
  const uint64_t before = gate_.fetch_sub(1, std::memory_order_acq_rel);
  if ((before & kJoined) == 1 && (before & kClosed) != 0) gate_.notify_one();
}

void ThreadPool::Work(int thread) {
  for (int k = 0; k < threads(); ++k) {
    Stretch& stretch = stretches_[(thread + k) % threads()];
    for (int64_t i; (i = stretch.next.fetch_add(1, std::memory_order_relaxed)) < stretch.end;) {
      function_(context_, i, thread);
      OfferCore();
    }
  }
}

void ThreadPool::HelperLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    const auto changed = [this, seen] { return generation_.load(std::memory_order_acquire) != seen; };
    while (!Spin(changed)) generation_.wait(seen, std::memory_order_acquire);
    seen = generation_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    if (!Join(seen)) continue;
    Work(thread);
    Leave();
  }
}

}  // namespace gantry::engine
