// Records that the receiver has acknowledged and might yet lose (rule R14): they stay in the spool until the receiver
// says that a backup covers them, or until there are too many. After a start the spool's owner finds and sends them
// again; the receiver counts each once.
//
// Threads: any.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>

#include "services/common/spool.h"

namespace gantry {

// Some hundred thousand records, sent again within seconds of a start.
inline constexpr int64_t kKeptSpoolBytes = 64 << 20;

class SpoolRetention {
 public:
  // `spool` outlives it. While the spool holds more than `spool_bytes_max`, the oldest kept records go.
  explicit SpoolRetention(Spool* spool, int64_t spool_bytes_max = kKeptSpoolBytes)
      : spool_(spool), spool_bytes_max_(spool_bytes_max) {}

  // The receiver has record `sequence` since `acked_us` and is safe from losing what it acknowledged before
  // `covered_us`, both on its clock. acked_us 0: it does not say; then nothing is kept.
  void Acked(uint64_t sequence, int64_t acked_us, int64_t covered_us);
  size_t kept() const;

 private:
  struct Kept {
    uint64_t sequence;
    int64_t acked_us;
  };
  Spool* const spool_;
  const int64_t spool_bytes_max_;
  mutable std::mutex mutex_;
  std::deque<Kept> kept_;  // guarded by mutex_; in order of acked_us
};

}  // namespace gantry
