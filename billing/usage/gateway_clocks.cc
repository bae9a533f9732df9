#include "billing/usage/gateway_clocks.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace gantry::billing {

void GatewayClocks::Note(const v1::UsageBatch& batch, int64_t now_us) {
  if (batch.records().empty()) return;
  const v1::UsageRecord& last = *batch.records().rbegin();
  if (last.wall_us() == 0) return;
  const __int128 there = static_cast<__int128>(last.wall_us()) + static_cast<__int128>(last.age_ms()) * 1000;
  const __int128 ahead = there - now_us;
  constexpr __int128 kMost = std::numeric_limits<int64_t>::max();
  const absl::MutexLock lock(&mutex_);
  if (gateways_.size() >= kGatewayClocksMax && !gateways_.contains(batch.gateway_id())) return;
  gateways_[batch.gateway_id()] = {static_cast<int64_t>(std::clamp(ahead, -kMost, kMost)), monotonic_()};
}

absl::Status GatewayClocks::Check() const {
  constexpr int64_t kApartUs = std::chrono::microseconds(kClocksApartMax).count();
  int64_t heard = 0, apart = 0;
  const absl::MutexLock lock(&mutex_);
  for (const auto& [id, known] : gateways_) {
    if (monotonic_() - known.heard > kClockKnownFor) continue;
    ++heard;
    if (known.ahead_us > kApartUs || known.ahead_us < -kApartUs) ++apart;
  }
  if (apart * 2 <= heard) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the clocks of ", apart, " of ", heard, " gateways are more than ",
                                                    kClocksApartMax.count(),
                                                    " minutes from billing's; set the clocks first"));
}

}  // namespace gantry::billing
