// Billing audits its own books while it works.
//
// At start, before anything is served: what came since the last signed checkpoint, when it is short; more is left to
// the background, so that a start takes no longer for it. Every minute: the same for what came since, and a new
// checkpoint. Every hour (large books more rarely), and soon after the start: everything, at the lowest priority, small
// books on a connection of its own, large ones on a copy, so that no long read keeps the write-ahead log from beginning
// anew.
//
// A finding about a party's books parks that party (billing/parties/parking.h); others go on. A finding about nobody's
// books in particular parks nobody and is told by State, the log and `gantry audit`.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "billing/audit/audit.h"
#include "billing/audit/checkpoint.h"
#include "billing/receipt/key_ring.h"
#include "billing/store/clock.h"
#include "billing/store/database.h"
#include "billing/store/store.h"

namespace gantry::billing {

struct AuditorState {
  int64_t full_us = 0;  // when the last audit of everything ended; 0: none yet
  bool full_ok = false;
  double full_seconds = 0;
  int64_t checkpoint_us = 0, checkpoint_event_seq = 0, checkpoint_transfer_seq = 0;
  int parked = 0;
  std::string trouble;  // beyond parties: what was found or could not be done
};

// Thread-safe.
class Auditor {
 public:
  struct Options {
    Store* store = nullptr;  // outlives it
    const ReceiptKeyRing* ring = nullptr;
    std::string path;  // gantry.db; a copy for the audit is made beside it
    Clock clock;
    absl::Duration tail_every = absl::Minutes(1);
    absl::Duration full_every = absl::Hours(1);
    absl::Duration first_full_after = absl::Seconds(20);
    int64_t start_rows_max = 100'000;     // of a tail that is checked before anything is served: tenths of a second
    int64_t direct_bytes_max = 64 << 20;  // books that are audited where they are: a second
  };
  // Checks the tail; what it finds parks parties and is told, and keeps nobody else from being served.
  static std::unique_ptr<Auditor> Start(Options options);
  ~Auditor();

  AuditorState State() const;
  // What the thread does by itself, for tests.
  void AuditTailNow();
  void AuditEverythingNow();

 private:
  enum Scope { kTail, kFull };
  explicit Auditor(Options options) : options_(std::move(options)) {}
  void Loop();
  // `rows_max` < 0: however long it is. False: too long.
  bool Tail(int64_t rows_max);
  absl::Status Full(AuditResult* result, Checkpoint* end);
  void Settle(Scope scope, const AuditResult& result, const Checkpoint& end);
  void SetTrouble(Scope scope, const std::string& trouble);

  const Options options_;
  mutable absl::Mutex mutex_;
  AuditorState state_ ABSL_GUARDED_BY(mutex_);
  std::string trouble_[2] ABSL_GUARDED_BY(mutex_);       // by scope
  Database* running_ ABSL_GUARDED_BY(mutex_) = nullptr;  // what an audit of everything reads
  absl::Notification stop_;
  std::thread thread_;
};

}  // namespace gantry::billing
