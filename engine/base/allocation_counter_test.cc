#include "engine/base/allocation_counter_test_util.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>

namespace gantry::engine {
namespace {

// Kept from the optimiser, which may leave out an allocation that nobody looks at.
void* volatile kept = nullptr;

TEST(AllocationCounterTest, EveryWayToAllocateCountsOnceWhileACounterLives) {
  const struct {
    const char* way;
    void* (*allocate)();
    void (*release)(void*);
  } rows[] = {
      {"malloc", [] { return std::malloc(100); }, std::free},
      {"calloc", [] { return std::calloc(10, 10); }, std::free},
      {"realloc", [] { return std::realloc(nullptr, 100); }, std::free},
      {"aligned_alloc", [] { return std::aligned_alloc(64, 128); }, std::free},
      {"posix_memalign",
       [] {
         void* memory = nullptr;
         return posix_memalign(&memory, 64, 128) == 0 ? memory : nullptr;
       },
       std::free},
      {"new", [] { return ::operator new(100); }, [](void* memory) { ::operator delete(memory); }},
      {"aligned new", [] { return ::operator new (128, std::align_val_t{64}); },
       [](void* memory) { ::operator delete (memory, std::align_val_t{64}); }},
  };
  for (const auto& row : rows) {
    int64_t count = 0;
    {
      const AllocationCounter counter;
      kept = row.allocate();
      count = counter.count();
    }
    EXPECT_NE(kept, nullptr) << row.way;
    row.release(kept);
    EXPECT_EQ(count, 1) << row.way;
  }
}

TEST(AllocationCounterTest, OtherThreadsCountToo) {
  std::atomic<bool> go{false};
  std::thread other([&go] {
    go.wait(false);
    kept = std::malloc(100);
    std::free(kept);
  });
  int64_t count = 0;
  {
    const AllocationCounter counter;
    go = true;
    go.notify_one();
    other.join();
    count = counter.count();
  }
  EXPECT_EQ(count, 1);
}

}  // namespace
}  // namespace gantry::engine
