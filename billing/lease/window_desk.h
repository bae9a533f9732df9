// Limits per minute and concurrency over all gateways (R8): one owner, in memory, on a monotonic clock.
//
// A gateway that is the only one *alone* counts by itself, exactly and without asking. When there are several, each
// reports what it has counted and leases permits from then on: so many requests and tokens of the window that runs, so
// many slots for requests at once. What is leased is used, until it is given back; before a request is refused, the
// others have given back what they do not use.
//
// A window counts as full as long as a gateway may be counting of whom nothing is known: one that the books name and
// that has not attached since this process began, one that was alone when its stream broke, one that has not reported
// yet. It is waited for until what it may do by itself has lapsed and its window is over. What a lessee had is known.
// Windows last a minute from their first permit; slots of a gateway that went without leaving are kept as long as a
// request may run.
// Thread-safe; orders are sent under its lock and never block.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "billing/lease/gateway_line.h"
#include "gantry/v1/lease.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

class WindowDesk {
 public:
  struct Options {
    std::function<absl::Duration()> monotonic;
    absl::Duration window = absl::Seconds(60);
    absl::Duration alone_for = absl::Seconds(60);           // what a gateway may do alone after the last order
    absl::Duration longest_request = absl::Hours(1);        // slots of a lost gateway are kept for so long
    absl::Duration answer_limit = absl::Milliseconds(500);  // others have to give back, or report, in this time
  };
  explicit WindowDesk(Options options);

  // Gateways that may be running: nothing is known of their windows yet. Once, before the first Attach.
  void Await(const std::vector<Id16>& gateways);
  // `fresh`: a new epoch; what an older one of it had is gone with it.
  void Attach(const Id16& gateway, bool fresh, std::shared_ptr<GatewayLine> line);
  void Detach(const Id16& gateway);
  // It serves nothing any more, or was given up: nobody waits for it.
  void Remove(const Id16& gateway);

  void Report(const Id16& gateway, const v1::WindowReport& report);
  void Ask(const Id16& gateway, const v1::PermitRequest& request);
  void Return(const Id16& gateway, const v1::PermitReturn& returned);
  void Owe(const Id16& gateway, const v1::TokensOwed& owed);

  // What time brings: bounds of waiting, lapsed gateways, windows that nobody uses. At least ten times a second.
  void Tick();
  bool IsAlone(const Id16& gateway) const;
  size_t keys() const;

 private:
  struct Counter {
    absl::Duration start = -absl::InfiniteDuration();
    uint64_t number = 0;  // 0: no window has begun
    uint64_t used = 0;
  };
  struct Asking {
    Id16 gateway;
    v1::PermitRequest request;
    absl::Duration deadline;
    uint64_t round = 0;  // the recall that it waits for; 0: the reports of others
  };
  struct Key {
    Counter requests, tokens;
    std::map<Id16, uint32_t> slots;  // by gateway
    std::set<Id16> lessees;          // with permits of the windows that run
    uint64_t round = 0;              // recall under way
    absl::Duration round_deadline;
    std::set<Id16> open;  // of the round
    std::deque<Asking> asking;
    absl::Duration used_at;
  };
  struct Gateway {
    std::shared_ptr<GatewayLine> line;  // null: not attached
    absl::Duration gone_at;             // while not attached
    bool unknown = false;               // while not attached: what it counts by itself
    bool alone = false;                 // by the last order
    uint64_t mode_number = 0;           // of the last order
    bool reported = false;
  };
  void RearrangeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool AbsentLocked(const Gateway& gateway) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Everybody who may count has reported; *absent: what is missing will not come within a moment.
  bool KnownLocked(bool* absent) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RollLocked(Counter* counter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TakeLocked(Counter* counter, uint64_t amount) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t SlotsLocked(const Key& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  v1::WindowLimit ShortLocked(Key* key, const v1::PermitRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DecideLocked(Key* key, Asking asking, bool final) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // `ahead`: as much more as makes asking rare.
  void GrantLocked(Key* key, const Asking& asking, bool ahead) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AnswerLocked(Key* key, const Asking& asking, v1::PermitAnswer answer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BeginRoundLocked(const Id16& key_id, Key* key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndRoundLocked(const Id16& key_id, Key* key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StrikeLocked(const Id16& gateway) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ResumeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FillWindow(const Id16& key_id, Key* key, v1::KeyWindow* window) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  mutable absl::Mutex mu_;
  std::map<Id16, Gateway> gateways_ ABSL_GUARDED_BY(mu_);
  std::map<Id16, Key> keys_ ABSL_GUARDED_BY(mu_);
  uint64_t last_number_ ABSL_GUARDED_BY(mu_);  // of modes, rounds and windows
};

}  // namespace gantry::billing
