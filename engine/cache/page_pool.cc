#include "engine/cache/page_pool.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace gantry::engine {

absl::StatusOr<CachePlan> PlanCaches(const CacheCosts& costs, const CacheWish& wish) {
  const int64_t pages_per_sequence = (wish.max_context + kKvPageTokens - 1) / kKvPageTokens;
  const int64_t slot_bytes = costs.state_slot_bytes, page_bytes = std::max<int64_t>(1, costs.kv_page_bytes);
  // A round verifies one sequence's drafts at least.
  const int64_t must = (wish.sequences + wish.draft_depth_max) * slot_bytes + pages_per_sequence * page_bytes;
  if (wish.cache_bytes < must) {
    return absl::FailedPreconditionError(
        absl::StrCat("a cache of ", wish.cache_bytes, " bytes is too small for one sequence: (", wish.sequences,
                     " sequences + ", wish.draft_depth_max, " drafts) x ", slot_bytes, " bytes of state + ",
                     pages_per_sequence, " pages (context ", wish.max_context, ") x ", costs.kv_page_bytes,
                     " bytes = ", must, " bytes; raise the cache, or lower the context or the number of sequences"));
  }
  CachePlan plan;
  plan.sequence_slots = wish.sequences;
  plan.draft_slots = wish.draft_depth_max;
  int64_t left = wish.cache_bytes - must;
  if (slot_bytes > 0) {
    const int64_t more = std::min<int64_t>(int64_t{wish.draft_depth_max} * (wish.sequences - 1), left / 4 / slot_bytes);
    plan.draft_slots += static_cast<int>(more);
    left -= more * slot_bytes;
  }
  const int64_t pages_wanted = pages_per_sequence * wish.sequences * (wish.prefix_cache ? 2 : 1);
  const int64_t snapshot_bytes = slot_bytes + wish.hidden_bytes;
  if (wish.prefix_cache && snapshot_bytes > 0) {
    plan.snapshots = static_cast<int>(std::min(left / 3 / snapshot_bytes, pages_wanted));
    left -= plan.snapshots * snapshot_bytes;
  }
  plan.kv_pages = static_cast<int>(std::min(pages_per_sequence + left / page_bytes, pages_wanted));
  return plan;
}

PagePool::PagePool(int pages) : pages_(pages), free_(pages), handed_out_(pages) {
  // Handed out from the back: low numbers first, which keeps a lightly used pool dense.
  std::iota(free_.rbegin(), free_.rend(), 0);
}

KvPage PagePool::Allocate() {
  GANTRY_CHECK(!free_.empty(), "a page is asked for when one is free");
  const KvPage page = free_.back();
  free_.pop_back();
  handed_out_[page] = true;
  return page;
}

void PagePool::Release(KvPage page) {
  GANTRY_CHECK(handed_out_[page], "a page is released once, by its owner");
  handed_out_[page] = false;
  free_.push_back(page);
}

}  // namespace gantry::engine
