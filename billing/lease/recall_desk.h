// Calls money back from gateways when a request would have to be refused (R6).
//
// A round asks every lender of one scope and ends when all have answered, or after a bound. Who comes while a round
// runs waits for the next one: an answer given before it came says nothing about what it needs. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "billing/lease/gateway_line.h"
#include "billing/ledger/credit_scopes.h"
#include "services/common/ids.h"

namespace gantry::billing {

class RecallDesk {
 public:
  struct Options {
    std::chrono::milliseconds round_limit{700};
    std::chrono::milliseconds reserve_for{2'000};  // no new slices of a scope for so long after a round
  };
  RecallDesk() : RecallDesk(Options()) {}
  explicit RecallDesk(Options options);
  ~RecallDesk();

  void Attach(const Id16& gateway, std::shared_ptr<GatewayLine> line);
  void Detach(const Id16& gateway);

  // `done(true)`: all lenders have answered, so what is available now is all there is. `done(false)`: one is not
  // attached or did not answer. Called once, from any thread or from inside the call, without locks.
  using Done = std::function<void(bool all_answered)>;
  void CallBack(const CreditScope& scope, const std::vector<Lender>& lenders, Done done);
  void Answered(const Id16& gateway, uint64_t number);

  // Whether a round of this scope runs or ran a moment ago.
  bool CalledBack(const CreditScope& scope) const;
  // Rounds since the start.
  int64_t rounds() const;

 private:
  using Clock = std::chrono::steady_clock;
  using Key = std::pair<int, int64_t>;  // kind of scope, no; tenants and resellers are both parties
  struct Purse {
    Id16 party, key;
    friend auto operator<=>(const Purse&, const Purse&) = default;
  };
  // Who asked for what; a round that has not begun.
  struct Waiting {
    std::map<Id16, std::vector<Purse>> purses;  // by gateway
    std::vector<Done> done;
  };
  struct Round {
    uint64_t number = 0;  // 0: none runs
    absl::flat_hash_set<Id16> open;
    bool all_answered = true;
    std::vector<Done> done;
    Clock::time_point deadline;
    Waiting next;
    Clock::time_point reserve_until;
  };
  using Calls = std::vector<std::pair<Done, bool>>;
  static Key KeyOf(const CreditScope& scope);
  void BeginLocked(Round* round, Calls* calls) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndLocked(Round* round, Calls* calls) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StrikeLocked(const Id16& gateway, uint64_t number, bool answered, Calls* calls)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Watch();

  const Options options_;
  mutable absl::Mutex mu_;
  absl::CondVar changed_;
  absl::flat_hash_map<Id16, std::shared_ptr<GatewayLine>> lines_ ABSL_GUARDED_BY(mu_);
  std::map<Key, Round> rounds_ ABSL_GUARDED_BY(mu_);
  uint64_t last_number_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread watcher_;
};

}  // namespace gantry::billing
