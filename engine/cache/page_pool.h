// Who owns which KV page, and what fits under a byte cap. Pages are plain numbers; the memory behind them is the
// backend's.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/backend/blocks.h"

namespace gantry::engine {

struct CacheWish {
  int64_t cache_bytes = 0;  // hard cap for everything below
  int sequences = 0;
  int draft_depth_max = 0;  // drafts of one sequence in one round; each needs a state slot of its own while it lasts
  int max_context = 0;
  bool prefix_cache = true;
  int64_t hidden_bytes = 0;  // of the hidden state in a snapshot; 0: the model has no MTP layer
};

struct CachePlan {
  int kv_pages = 0;
  int sequence_slots = 0;  // one for each sequence
  int draft_slots = 0;     // shared by all sequences' drafts
  int snapshots = 0;
};

// State slots for every sequence and pages for one sequence at full context must fit. Of the rest, at most a quarter
// goes to draft slots, at most a third of what then remains to snapshots, and the others to pages: without a prefix
// cache as many as all sequences at full context can use, with it twice as many. FAILED_PRECONDITION with the
// arithmetic when not even one sequence of max_context positions fits.
absl::StatusOr<CachePlan> PlanCaches(const CacheCosts& costs, const CacheWish& wish);

// Threads: one. Invariant: every page is either free or handed out exactly once.
class PagePool {
 public:
  explicit PagePool(int pages);

  int free() const { return static_cast<int>(free_.size()); }
  int used() const { return pages_ - free(); }

  // REQUIRES: free() > 0.
  KvPage Allocate();
  void Release(KvPage page);

 private:
  int pages_;
  std::vector<KvPage> free_;
  std::vector<bool> handed_out_;
};

}  // namespace gantry::engine
