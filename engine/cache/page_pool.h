// Who owns which KV page. Pages are plain numbers; the memory behind them is the backend's.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/blocks.h"

namespace gantry::engine {

// What fits under a byte cap.
struct CachePlan {
  int kv_pages = 0;
  int state_slots = 0;
};

// State slots for every sequence first, pages for the rest, never more pages than all sequences at full context can
// use. FAILED_PRECONDITION with the arithmetic when not even one sequence of max_context positions fits.
absl::StatusOr<CachePlan> PlanCaches(const CacheCosts& costs, int64_t cache_bytes, int sequences,
                                     int slots_per_sequence, int max_context);

// Threads: one. Invariant: every page is either free or handed out exactly once.
class PagePool {
 public:
  explicit PagePool(int pages);

  int free() const { return static_cast<int>(free_.size()); }
  int used() const { return pages_ - free(); }

  // All or nothing: false leaves *out alone.
  bool Allocate(int count, std::vector<KvPage>* out);
  // Empties *pages.
  void Release(std::vector<KvPage>* pages);

 private:
  int pages_;
  std::vector<KvPage> free_;
  std::vector<bool> handed_out_;
};

}  // namespace gantry::engine
