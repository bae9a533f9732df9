#include "services/common/spool_retention.h"

#include <algorithm>
#include <vector>

namespace gantry {

void SpoolRetention::Acked(uint64_t sequence, int64_t acked_us, int64_t covered_us) {
  std::vector<uint64_t> gone;
  {
    std::lock_guard lock(mutex_);
    if (acked_us == 0) {
      gone.push_back(sequence);
    } else {
      // The receiver's clock does not step back while it runs; after a restart it may, and then a record stays longer.
      kept_.push_back({sequence, kept_.empty() ? acked_us : std::max(acked_us, kept_.back().acked_us)});
    }
    while (!kept_.empty() && kept_.front().acked_us < covered_us) {
      gone.push_back(kept_.front().sequence);
      kept_.pop_front();
    }
    // A segment goes when all its records do, so an eighth at once.
    if (spool_->Stats().bytes > spool_bytes_max_) {
      for (size_t n = kept_.size() / 8 + 1; n > 0 && !kept_.empty(); --n) {
        gone.push_back(kept_.front().sequence);
        kept_.pop_front();
      }
    }
  }
  for (const uint64_t record : gone) spool_->Ack(record);
}

size_t SpoolRetention::kept() const {
  std::lock_guard lock(mutex_);
  return kept_.size();
}

}  // namespace gantry
