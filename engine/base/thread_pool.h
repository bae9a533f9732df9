// A fixed team of threads for short parallel loops.
//
// Who computes what is decided by an atomic counter, so results must not depend on it: a loop body writes only to
// places that its index owns. Between loops the helpers spin for at most 50 us, then park. Nothing allocates in
// ParallelFor.
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

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

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

  std::vector<std::thread> helpers_;
  // One loop at a time; written by the owner before generation_ is published.
  Function function_ = nullptr;
  const void* context_ = nullptr;
  int64_t count_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> busy_{0};  // helpers still in the current loop
  std::atomic<bool> stopping_{false};
};

}  // namespace gantry::engine
