// Billing's wall clock: microseconds since 1970, never stepping back within a process, and not behind what the books
// already say (R11). Injected, so that tests own time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"

namespace gantry::billing {

using Clock = std::function<int64_t()>;  // thread-safe

Clock SystemClock();

// 'YYYY-MM' of a time, UTC.
inline std::string PeriodOf(int64_t time_us) {
  return absl::FormatTime("%Y-%m", absl::FromUnixMicros(time_us), absl::UTCTimeZone());
}

}  // namespace gantry::billing
