// A fixed team of threads for short parallel loops.
//
// Every thread begins with its own stretch of consecutive indices, so that it streams through what they read, and then
// helps with the others'. Who computes what is therefore not known before, and results must not depend on it: a loop
// body writes only to places that its index owns. Between loops the helpers spin for at most 50 us, then park. Nothing
// allocates in ParallelFor.
//
// The owner never waits for a helper that has not begun: a loop closes when its indices are given out, and who comes
// later finds it closed. So a helper that the kernel keeps from running (others want its core) costs its share of the
// work, not its time slice.
//
// Between indices a thread now and then offers its core to whoever waits for it, so that threads which need it for
// microseconds need not wait for the scheduler's tick.
//
// Threads: one thread (the owner) calls ParallelFor; it works too. Not reentrant.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace gantry::engine {

// What cgroup quota and affinity mask allow, at least 1.
int UsableThreads();

class ThreadPool {
 public:
  // threads <= 0: UsableThreads(). One of them is the caller.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(stretches_.size()); }

  // body(index, thread) for every index in [0, count); returns when all are done. `thread` is in [0, threads()).
  template <typename Body>
  void ParallelFor(int64_t count, const Body& body) {
    Run(
        count,
        [](const void* context, int64_t index, int thread) { (*static_cast<const Body*>(context))(index, thread); },
        &body);
  }

 private:
  using Function = void (*)(const void* context, int64_t index, int thread);
  void Run(int64_t count, Function function, const void* context);
  void Work(int thread);
  void HelperLoop(int thread);
  // Whether the loop of this generation is still open; if so, the owner waits for Leave.
  bool Join(uint32_t generation);
  void Leave();

  // Of gate_: the generation in the upper half, whether its loop has closed, and how many helpers are in it.
  static constexpr uint64_t kClosed = uint64_t{1} << 31, kJoined = kClosed - 1;

  std::vector<std::thread> helpers_;
  // One loop at a time; written by the owner before gate_ opens, read by helpers who have joined.
  Function function_ = nullptr;
  const void* context_ = nullptr;
  struct alignas(64) Stretch {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::vector<Stretch> stretches_;                   // one for each thread
  alignas(64) std::atomic<uint32_t> generation_{0};  // what helpers wait on
  alignas(64) std::atomic<uint64_t> gate_{kClosed};
  std::atomic<bool> stopping_{false};
};

}  // namespace gantry::engine
