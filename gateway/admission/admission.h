// One decision, all or nothing: key ∧ scope ∧ model ∧ address ∧ requests/min ∧ tokens/min ∧ concurrency ∧ key budget ∧
// balance. A refusal has consumed nothing and says which limit, its size, its use and when it resets. A permit gives
// everything back when it goes, and tells its request when the key is revoked.
//
// Where the counts live (R8): while this is billing's only gateway, here; windows begin empty at its start. When there
// are several, each spends what billing has leased it of a key's windows and slots, and asks for more when that does
// not suffice. What a stream used beyond its permits is owed. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gateway/admission/credit_book.h"
#include "gateway/admission/key_table.h"
#include "gateway/admission/leased_window.h"
#include "gateway/admission/price_table.h"
#include "gateway/admission/rate_window.h"

namespace gantry::v1 {
class GatewayOrder;
class GatewayReport;
class PermitAnswer;
class PermitRecall;
class WindowMode;
enum WindowLimit : int;
}  // namespace gantry::v1

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
  uint64_t tokens_window_ = 0;  // that the reserved ones were leased of
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

// The decision waits for money: Obtain it from the book and decide again.
struct NeedsCredit : CreditNeed {};

// The decision waits for permits: Lease them and decide again.
struct NeedsPermits {
  std::shared_ptr<const KeyInfo> key;
  uint64_t requests = 0;
  uint64_t tokens = 0;
  uint32_t slots = 0;
};

class Admission : public std::enable_shared_from_this<Admission> {
 public:
  // `keys` and `prices` outlive the admission and all permits. `wall`: time of day, for expiry only. `report` sends to
  // billing, from any thread; false: there is no stream. Null: this gateway is and stays the only one.
  using Report = std::function<bool(const v1::GatewayReport&)>;
  static std::shared_ptr<Admission> Create(KeyTable* keys, PriceTable* prices, std::shared_ptr<CreditBook> book,
                                           std::function<absl::Duration()> monotonic, std::function<absl::Time()> wall,
                                           Report report = nullptr);

  // Whether the secret may be used at all; what is asked for is judged by Admit.
  std::variant<std::shared_ptr<const KeyInfo>, Refusal> Authenticate(absl::string_view secret) const;
  // The rules that need no counting: for routes that cost nothing.
  std::variant<std::monostate, Refusal> MayCall(const KeyInfo& key, absl::string_view scope,
                                                absl::string_view address) const;

  // `reserved` (may be null): what Obtain gave for this request.
  std::variant<std::unique_ptr<Permit>, NeedsCredit, NeedsPermits, Refusal> Admit(
      const AdmissionRequest& request, std::unique_ptr<CreditBook::Hold> reserved = nullptr);
  // What to tell the tenant when the Obtain that Admit asked for ended with this status.
  static Refusal CreditRefusal(const absl::Status& status);

  // Asks billing for permits, or waits until it has said how this gateway counts. `done`, from any thread or from
  // inside the call, gets nothing (decide again) or the refusal. Who has given up waiting ignores it.
  using Leased = std::function<void(std::optional<Refusal>)>;
  void Lease(const NeedsPermits& needs, Leased done);
  // What billing orders about windows; one after the other. Broken: the stream has ended.
  void Obey(const v1::GatewayOrder& order);
  void Broken();
  // Once a second: slots that nobody uses go back.
  void Tick();
  // Whether this gateway knows how it counts.
  bool windows_known() const;

  CreditBook& book() { return *book_; }
  int active() const { return active_.load(std::memory_order_relaxed); }

 private:
  friend class Permit;
  struct KeyState {
    RateWindow requests;  // counted alone
    RateWindow tokens;
    uint32_t running = 0;
    LeasedWindow leased_requests;
    LeasedWindow leased_tokens;
    uint32_t slots = 0;  // leased, running ones included
    uint32_t slots_by_all = 0;
    absl::Duration used_at;
    // A refusal by billing is not asked for again before.
    absl::Duration full_until = -absl::InfiniteDuration();
    v1::WindowLimit full_by{};
    std::set<Permit*> permits;
  };
  enum class Counting { kUnknown, kAlone, kLeased };
  struct Asked {
    NeedsPermits needs;
    absl::Duration sent;
    Leased done;
  };
  struct Taking {  // what a request takes of its key's limits
    uint64_t requests = 0;
    uint64_t tokens = 0;
    uint32_t slots = 0;
  };
  Admission(KeyTable* keys, PriceTable* prices, std::shared_ptr<CreditBook> book,
            std::function<absl::Duration()> monotonic, std::function<absl::Time()> wall, Report report);
  KeyState& StateLocked(const Id16& key_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Counting CountingLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  LimitState LimitsLocked(const KeyInfo& key, KeyState* state) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Refusal RefuseLocked(const KeyInfo& key, KeyState* state, v1::WindowLimit limit, uint64_t tokens) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Which limit forbids it, or what must be leased; nothing: it may be taken.
  std::variant<std::monostate, v1::WindowLimit, NeedsPermits> JudgeLocked(const std::shared_ptr<const KeyInfo>& key,
                                                                          KeyState* state, const Taking& taking)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TakeLocked(const KeyInfo& key, KeyState* state, const Taking& taking, Permit* permit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SetMode(const v1::WindowMode& mode);
  void TakeAnswer(const v1::PermitAnswer& answer);
  void GiveBack(const v1::PermitRecall& recall);
  void KeyChanged(const Id16& key_id);
  void Release(Permit* permit);

  KeyTable* const keys_;
  PriceTable* const prices_;
  const std::shared_ptr<CreditBook> book_;
  const std::function<absl::Duration()> monotonic_;
  const std::function<absl::Time()> wall_;
  const Report report_;
  std::atomic<int> active_{0};
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Id16, std::unique_ptr<KeyState>> states_ ABSL_GUARDED_BY(mu_);
  Counting counting_ ABSL_GUARDED_BY(mu_) = Counting::kUnknown;
  absl::Duration alone_until_ ABSL_GUARDED_BY(mu_);
  uint64_t last_asked_ ABSL_GUARDED_BY(mu_) = 0;
  absl::flat_hash_map<uint64_t, Asked> asked_ ABSL_GUARDED_BY(mu_);
  std::vector<Leased> waiting_ ABSL_GUARDED_BY(mu_);  // for the mode
};

}  // namespace gantry::gateway
