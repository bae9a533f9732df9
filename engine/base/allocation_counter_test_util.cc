#include "engine/base/allocation_counter_test_util.h"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>

#include "engine/base/check.h"

extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* old, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);
}

namespace {
std::atomic<bool> armed{false};
std::atomic<int64_t> allocations{0};

void Count() {
  if (!armed.load(std::memory_order_relaxed)) return;
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (std::getenv("GANTRY_ABORT_ON_ALLOCATION") != nullptr) std::abort();
}
}  // namespace

extern "C" {
void* malloc(size_t bytes) {
  Count();
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  Count();
  return __libc_calloc(count, bytes);
}
void* realloc(void* old, size_t bytes) {
  Count();
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  Count();
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** out, size_t alignment, size_t bytes) {
  Count();
  *out = __libc_memalign(alignment, bytes);
  return *out == nullptr ? ENOMEM : 0;
}
}

namespace gantry::engine {

AllocationCounter::AllocationCounter() {
  GANTRY_CHECK(!armed, "one counter at a time");
  allocations = 0;
  armed = true;
}
AllocationCounter::~AllocationCounter() {
  armed = false;
}

int64_t AllocationCounter::count() const {
  return allocations;
}

}  // namespace gantry::engine
