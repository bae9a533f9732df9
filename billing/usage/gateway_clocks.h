// How far gateways' wall clocks are from billing's, as their usage records tell (R11): a record says what time it was
// there when its request ended and how long ago that was. What takes billing's clock for the truth and can never be
// taken back, the finalising of invoices, asks here whether most gateways agree. In memory; thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {

inline constexpr std::chrono::minutes kClocksApartMax{5};
inline constexpr std::chrono::hours kClockKnownFor{1};  // what a gateway said longer ago counts no more
inline constexpr size_t kGatewayClocksMax = 4'096;      // further gateways are not asked

class GatewayClocks {
 public:
  using Monotonic = std::function<std::chrono::steady_clock::time_point()>;
  explicit GatewayClocks(Monotonic monotonic = std::chrono::steady_clock::now) : monotonic_(std::move(monotonic)) {}

  // A batch that came at `now_us` of billing's clock. Batches without a time say nothing.
  void Note(const v1::UsageBatch& batch, int64_t now_us);

  // FAILED_PRECONDITION: of the gateways that were heard of, more than half are further away than kClocksApartMax.
  absl::Status Check() const;

 private:
  struct Known {
    int64_t ahead_us = 0;  // of billing
    std::chrono::steady_clock::time_point heard{};
  };
  const Monotonic monotonic_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, Known> gateways_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gantry::billing
