// Counts allocations. A program that links this has malloc and its kin replaced by ones that count; it cannot be built
// with sanitizers, whose malloc is their own.
#pragma once

#include <cstdint>

namespace gantry::engine {

// Counts what all threads allocate while it lives; one at a time. With GANTRY_ABORT_ON_ALLOCATION in the environment
// the first allocation aborts, for a debugger.
class AllocationCounter {
 public:
  AllocationCounter();
  ~AllocationCounter();
  AllocationCounter(const AllocationCounter&) = delete;
  AllocationCounter& operator=(const AllocationCounter&) = delete;

  int64_t count() const;
};

}  // namespace gantry::engine
