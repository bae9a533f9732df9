#include "billing/store/clock.h"

#include <atomic>
#include <memory>

#include "absl/time/clock.h"

namespace gantry::billing {

Clock SystemClock() {
  auto last = std::make_shared<std::atomic<int64_t>>(0);
  return [last] {
    int64_t now = absl::ToUnixMicros(absl::Now());
    int64_t seen = last->load();
    while (seen < now && !last->compare_exchange_weak(seen, now)) {
    }
    return std::max(seen, now);
  };
}

}  // namespace gantry::billing
