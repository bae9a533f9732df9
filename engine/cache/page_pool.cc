#include "engine/cache/page_pool.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace gantry::engine {

absl::StatusOr<CachePlan> PlanCaches(const CacheCosts& costs, int64_t cache_bytes, int sequences,
                                     int slots_per_sequence, int max_context) {
  const int64_t pages_per_sequence = (max_context + kKvPageTokens - 1) / kKvPageTokens;
  const int64_t slots = int64_t{sequences} * slots_per_sequence;
  const int64_t slot_bytes = slots * costs.state_slot_bytes;
  const int64_t page_bytes = std::max<int64_t>(1, costs.kv_page_bytes);
  const int64_t pages = std::min((cache_bytes - slot_bytes) / page_bytes, pages_per_sequence * sequences);
  if (cache_bytes < slot_bytes || pages < pages_per_sequence) {
    return absl::FailedPreconditionError(
        absl::StrCat("a cache of ", cache_bytes, " bytes is too small for one sequence: ", sequences, " sequences x ",
                     slots_per_sequence, " state slots x ", costs.state_slot_bytes, " bytes + ", pages_per_sequence,
                     " pages (context ", max_context, ") x ", costs.kv_page_bytes,
                     " bytes = ", slot_bytes + pages_per_sequence * costs.kv_page_bytes,
                     " bytes; raise the cache, or lower the context or the number of sequences"));
  }
  return CachePlan{.kv_pages = static_cast<int>(pages), .state_slots = static_cast<int>(slots)};
}

PagePool::PagePool(int pages) : pages_(pages), free_(pages), handed_out_(pages) {
  // Handed out from the back: low numbers first, which keeps a lightly used pool dense.
  std::iota(free_.rbegin(), free_.rend(), 0);
}

bool PagePool::Allocate(int count, std::vector<KvPage>* out) {
  if (count > free()) return false;
  for (int i = 0; i < count; ++i) {
    handed_out_[free_.back()] = true;
    out->push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void PagePool::Release(std::vector<KvPage>* pages) {
  for (const KvPage page : *pages) {
    GANTRY_CHECK(handed_out_[page], "a page is released once, by its owner");
    handed_out_[page] = false;
    free_.push_back(page);
  }
  pages->clear();
}

}  // namespace gantry::engine
