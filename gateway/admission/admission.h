// One decision, all or nothing: key ∧ scope ∧ model ∧ address ∧ requests/min ∧ tokens/min ∧ concurrency ∧ key budget ∧
// balance. A refusal has consumed nothing and says which limit, its size, its use and when it resets. A permit gives
// everything back when it goes, and tells its request when the key is revoked.
//
// Where the counts live: this gateway alone (one gateway a billing service, for now). Windows begin empty at its start.
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/admission/credit_book.h"
#include "gateway/admission/key_table.h"
#include "gateway/admission/price_table.h"
#include "gateway/admission/rate_window.h"

namespace gantry::gateway {

// Tokens of one extension of a running stream's credit, and of the part of max_tokens that the first hold covers (R7).
inline constexpr uint32_t kCreditTokens = 256;

enum class RefusalReason {
  kStaleKeys,   // billing silent for too long: fail closed
  kInvalidKey,  // unknown, revoked
  kExpiredKey,
  kSuspended,  // the tenant is not active
  kScope,
  kAddress,
  kModel,
  kNoPrice,   // the tenant's plan has no price for the model
  kRequests,  // requests per minute
  kTokens,    // tokens per minute
  kConcurrency,
  kKeyBudget,
  kFunds,        // the money is gone
  kBillingAway,  // slices are spent and billing does not answer
};
const char* RefusalName(RefusalReason reason);  // metric label: "requests", "funds", …

// Limits of the key as they stand after a decision; a limit of 0 does not exist.
struct LimitState {
  uint64_t requests_limit = 0, requests_used = 0;
  uint64_t tokens_limit = 0, tokens_used = 0;
  absl::Duration requests_reset, tokens_reset;
};

struct Refusal {
  RefusalReason reason;
  std::string message;                                // names limit, size, use and reset where there are such
  absl::Duration retry_after = absl::ZeroDuration();  // zero: retrying does not help by itself
  LimitState limits;                                  // as they are, for refusals by a limit
};

class Admission;

class Permit {
 public:
  ~Permit();
  Permit(const Permit&) = delete;
  Permit& operator=(const Permit&) = delete;

  const KeyInfo& key() const { return *key_; }
  const Prices& prices() const { return prices_; }
  const LimitState& limits() const { return limits_; }
  CreditBook::Hold& hold() { return *hold_; }

  // Key revoked or removed, or tenant no longer active: the stream ends within a second (R5).
  bool revoked() const { return revoked_.load(std::memory_order_acquire); }
  // Called once from any thread when that happens; at once if it has.
  void OnRevoked(std::function<void()> wake);

  // Credit for `tokens` more output tokens. False: the slice cannot pay them.
  bool ExtendOutput(uint64_t tokens);
  // Ends the hold with what was delivered. Call at most once; without it the hold is void.
  void Settle(uint64_t prompt_tokens, uint64_t cached_tokens, uint64_t output_tokens);
  // The same for a request of which nothing was delivered: it costs nothing, but a record of it is on its way.
  void SettleFailed();

 private:
  friend class Admission;
  Permit() = default;
  std::shared_ptr<Admission> admission_;
  std::shared_ptr<const KeyInfo> key_;
  Prices prices_;
  LimitState limits_;
  std::unique_ptr<CreditBook::Hold> hold_;
  uint64_t reserved_tokens_ = 0;
  uint64_t used_tokens_ = 0;
  int64_t first_hold_micro_ = 0;  // counted against the key's budget until the end
  int64_t spent_micro_ = 0;
  absl::Duration admitted_at_;
  bool counted_ = true;
  std::atomic<bool> revoked_{false};
  std::function<void()> wake_;  // guarded by admission_->mu_
};

struct AdmissionRequest {
  std::shared_ptr<const KeyInfo> key;  // as authenticated
  std::string model;
  std::string address;  // of the client
  uint64_t prompt_tokens = 0;
  uint64_t max_tokens = 0;  // per choice
  uint32_t choices = 1;
  bool counts_as_request = true;  // false: a further prompt of a request that was counted
};

// The decision waits for money: Refill the book with `minimum_micro` and decide again.
struct NeedsCredit {
  Id16 party;
  int64_t minimum_micro = 0;
};

class Admission : public std::enable_shared_from_this<Admission> {
 public:
  // `keys` and `prices` outlive the admission and all permits. `wall`: time of day, for expiry only.
  static std::shared_ptr<Admission> Create(KeyTable* keys, PriceTable* prices, std::shared_ptr<CreditBook> book,
                                           std::function<absl::Duration()> monotonic, std::function<absl::Time()> wall);

  // Whether the secret may be used at all; what is asked for is judged by Admit.
  std::variant<std::shared_ptr<const KeyInfo>, Refusal> Authenticate(absl::string_view secret) const;
  // The rules that need no counting: for routes that cost nothing.
  std::variant<std::monostate, Refusal> MayCall(const KeyInfo& key, absl::string_view scope,
                                                absl::string_view address) const;

  std::variant<std::unique_ptr<Permit>, NeedsCredit, Refusal> Admit(const AdmissionRequest& request);
  // What to tell the tenant when the Refill that Admit asked for ended with this status.
  static Refusal CreditRefusal(const absl::Status& status);

  CreditBook& book() { return *book_; }
  int active() const { return active_.load(std::memory_order_relaxed); }

 private:
  friend class Permit;
  struct KeyState {
    RateWindow requests;
    RateWindow tokens;
    uint32_t running = 0;
    int64_t spent_micro = 0;  // since this gateway started
    std::set<Permit*> permits;
  };
  Admission(KeyTable* keys, PriceTable* prices, std::shared_ptr<CreditBook> book,
            std::function<absl::Duration()> monotonic, std::function<absl::Time()> wall);
  void KeyChanged(const Id16& key_id);
  void Release(Permit* permit);

  KeyTable* const keys_;
  PriceTable* const prices_;
  const std::shared_ptr<CreditBook> book_;
  const std::function<absl::Duration()> monotonic_;
  const std::function<absl::Time()> wall_;
  std::atomic<int> active_{0};
  absl::Mutex mu_;
  absl::flat_hash_map<Id16, std::unique_ptr<KeyState>> states_ ABSL_GUARDED_BY(mu_);
};

}  // namespace gantry::gateway
