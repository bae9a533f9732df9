// Money that billing has set aside for this gateway, and what running requests hold of it.
//
// A *purse* is who spends: a tenant, or one key of it that has a budget. A *slice* belongs to one purse; a *hold* is
// drawn from one slice and stays with it, since the usage record names both. Invariants, per slice: spent + held +
// returned <= granted; all four only grow, but held. Slices are spent until 90 % of their life on the monotonic clock
// counted from sending the request (R9); holds drawn before that live on, but do not grow: new holds are therefore
// drawn only while the slice lives on for as long as a request may take. Extensions go before admissions: a new hold
// must leave one extension for every hold that may still grow (R7).
//
// New slices are asked for in the background when less than half of one is left, so that no request waits for billing
// while the tenant is in funds. When money is short (R6), billing gives no slices and calls those back that are out:
// what running requests do not hold is returned at once, the rest as they end. For some seconds requests then have
// *reserved* holds, each set aside by billing for it alone, with one extension from the beginning; growth is asked for
// one extension ahead. Thread-safe; callbacks run without locks on whatever thread billing's answer comes on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/ids.h"

namespace gantry::v1 {
class ExtendHoldRequest;
class GrantSliceRequest;
class GrantSliceResponse;
class HoldResponse;
class Recall;
class ReserveRequest;
class ReturnSliceRequest;
class ReturnSliceResponse;
class VoidHoldRequest;
}  // namespace gantry::v1

namespace gantry::gateway {

// Billing's Credit service as the book needs it. Each call has a deadline; each callback is called exactly once, never
// from inside the call.
class CreditClient {
 public:
  template <typename Response>
  using Done = std::function<void(absl::StatusOr<Response>)>;
  virtual ~CreditClient() = default;
  virtual void GrantSlice(const v1::GrantSliceRequest& request, Done<v1::GrantSliceResponse> done) = 0;
  virtual void ReturnSlice(const v1::ReturnSliceRequest& request, Done<v1::ReturnSliceResponse> done) = 0;
  virtual void Reserve(const v1::ReserveRequest& request, Done<v1::HoldResponse> done) = 0;
  virtual void ExtendHold(const v1::ExtendHoldRequest& request, Done<v1::HoldResponse> done) = 0;
  virtual void VoidHold(const v1::VoidHoldRequest& request, Done<v1::HoldResponse> done) = 0;
};

struct Purse {
  Id16 party;
  Id16 key;                                                                 // zero: all keys without a budget
  Purse(Id16 of_party, Id16 of_key = {}) : party(of_party), key(of_key) {}  // a party is the purse of its keys
  friend auto operator<=>(const Purse&, const Purse&) = default;
  template <typename H>
  friend H AbslHashValue(H state, const Purse& purse) {
    return H::combine(std::move(state), purse.party, purse.key);
  }
};

// What a request needs from the book.
struct CreditNeed {
  Purse purse;
  int64_t micro = 0;
  int64_t extension_micro = 0;  // 0: it will not grow
  Id16 key;
  Id16 plan_version;
  int64_t minimum_micro() const { return micro + extension_micro; }
};

class CreditBook : public std::enable_shared_from_this<CreditBook> {
 public:
  struct Options {
    Id16 gateway_id;
    uint64_t gateway_epoch = 0;
    int64_t slice_micro = 1'000'000;
    absl::Duration request_life = absl::Minutes(10);  // longest request
    // How long requests have holds of their own after billing said so or called slices back.
    absl::Duration reserve_for = absl::Seconds(2);
    std::function<absl::Duration()> monotonic;
    // Writes the slice down (spool) before anything is spent from it: after a crash it must be returned. An error
    // refuses the slice. Null: nothing is written.
    std::function<absl::Status(const Id16& slice, const Id16& party, int64_t granted_micro)> on_grant;
    std::function<void(const Id16& slice)> on_closed;  // null: nobody cares
  };
  // `client` outlives the book.
  static std::shared_ptr<CreditBook> Create(Options options, CreditClient* client);
  ~CreditBook();

  // Part of a slice, or a hold of its own; given back when the object goes. One owner at a time.
  class Hold {
   public:
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    // The slice that it was drawn from, or for a reserved one the hold: what the usage record names, and the other
    // zero.
    const Id16& credit() const { return credit_; }
    bool reserved() const { return reserved_; }
    const Purse& purse() const { return purse_; }
    int64_t held_micro() const { return held_; }
    // More of the same. False: the slice has not got it, or its time is over; a reserved hold has not got it yet.
    bool Extend(int64_t micro);
    // Called from any thread when a reserved hold has got more. Set before the first Extend.
    void OnGrown(std::function<void()> wake);
    // The slice's time is nearly over: who needs more takes all of it now.
    bool LastCall() const;
    // No further extension will be asked for.
    void Complete();
    // Ends the hold with what the request cost; a record that says so is on its way to billing.
    void Settle(int64_t cost_micro);

   private:
    friend class CreditBook;
    Hold(std::shared_ptr<CreditBook> book, Purse purse, Id16 credit, bool reserved, int64_t held, int64_t extension)
        : book_(std::move(book)),
          purse_(purse),
          credit_(credit),
          reserved_(reserved),
          held_(held),
          extension_(extension) {}
    std::shared_ptr<CreditBook> book_;
    Purse purse_;
    Id16 credit_;
    bool reserved_;
    int64_t held_;
    int64_t extension_;  // reserved for growth; 0 once complete
    bool open_ = true;
  };

  // `micro` now and room for `extension_micro` later. Null: no slice of the purse has it.
  std::unique_ptr<Hold> Draw(const Purse& purse, int64_t micro, int64_t extension_micro);

  // Asks billing for what could not be drawn. `done` gets a reserved hold for the request; or null: there is a new
  // slice, draw again; or FAILED_PRECONDITION (the money is gone; the message is billing's), OUT_OF_RANGE (the key's
  // budget is spent), UNAVAILABLE/DEADLINE_EXCEEDED (billing away). Who has given up waiting drops the hold.
  void Obtain(const CreditNeed& need, const Id16& request_id,
              std::function<void(absl::StatusOr<std::unique_ptr<Hold>>)> done);
  // Asks for a slice of at least `minimum_micro`. Errors as above; OK also when requests have holds of their own for
  // now. Calls for one purse share one RPC when it covers them.
  void Refill(const Purse& purse, int64_t minimum_micro, std::function<void(absl::Status)> done);

  // Billing needs what lies here. `done` when it has all that running requests do not hold, records included.
  void Recall(const v1::Recall& recall, std::function<void()> done);

  // Billing has taken a record that names this slice or hold; or will never take it, so that nothing ends the hold.
  void RecordAcked(const Id16& credit);
  void RecordRefused(const Id16& credit);

  // Once a second: closes slices whose time is over, undoes grants whose answer was lost, and voids again.
  void Tick();
  // Gives back everything that is not held or spent; at shutdown, when no request runs any more. Again and again until
  // closing() is 0: a call may fail.
  void ReturnAll();

  struct Totals {
    int64_t granted_micro = 0;
    int64_t held_micro = 0;
    int64_t spent_micro = 0;
    int64_t returned_micro = 0;
    int slices = 0;
  };
  Totals TotalsOf(const Purse& purse) const;
  // Slices that are not closed yet.
  int open_slices() const;
  // Slices that nothing keeps open but billing's answer, and reserved holds that it has not voided yet.
  int closing() const;
  // Requests that had a hold of their own since the start.
  int64_t reserved_total() const;

 private:
  struct Slice {
    Id16 id;
    int64_t granted = 0;
    int64_t held = 0;
    int64_t extensions = 0;  // reserved for the growth of open holds
    int64_t spent = 0;
    int64_t returned = 0;
    int open_holds = 0;
    int unacked = 0;             // records on their way
    absl::Duration draw_until;   // new holds
    absl::Duration last_call;    // before spend_until
    absl::Duration spend_until;  // extensions
    bool retired = false;        // nothing is drawn from it any more
    bool recalled = false;       // what becomes free is returned at once
    bool closing = false;        // the closing RPC is on its way
    absl::Duration settled_at;   // last
    int64_t free() const { return granted - held - spent - returned; }
  };
  struct Waiter {
    int64_t minimum;
    std::function<void(absl::Status)> done;
  };
  struct Account {
    std::vector<Slice> slices;
    bool refilling = false;
    int64_t refill_minimum = 0;
    std::vector<Waiter> waiters;
    absl::Duration no_background_until;  // after a refusal: no asking ahead for a while
    absl::Duration reserve_until;        // requests have holds of their own
    int returning = 0;                   // calls on their way that give something back
  };
  struct Reserved {
    Purse purse;
    int64_t held = 0;  // by billing
    int64_t used = 0;  // of that, by the request
    uint32_t extensions = 0;
    int64_t asked = 0;  // of an extension that billing has not answered for certain
    bool asking = false;
    absl::Duration pause_until;
    std::function<void()> wake;
  };
  struct PendingRecall {
    std::vector<Purse> purses;
    std::function<void()> done;
  };

  CreditBook(Options options, CreditClient* client);
  Slice* FindLocked(const Purse& purse, const Id16& slice) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool WantsMoreLocked(const Account& account) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // ---- slices
  void StartRefill(const Purse& purse, int64_t minimum, bool consolidated);
  void OnGranted(const Purse& purse, int64_t minimum, bool consolidated, const Id16& slice_id, absl::Duration sent,
                 const absl::StatusOr<v1::GrantSliceResponse>& response);
  void FinishRefill(const Purse& purse, const absl::Status& status);
  // Returns free money that lies in slices of the purse, or in those that were called back; `done` (may be null) when
  // all is through. False: there is none, and `done` is not called.
  bool ReturnFree(const Purse& purse, bool recalled_only, std::function<void()> done);
  void RefillAhead(const Purse& purse);
  void CloseFinished();
  void UndoLostGrants();
  // A hold ended on a slice that billing wants back.
  void GiveBack(const Purse& purse);
  // ---- reserved holds
  void StartReserve(const CreditNeed& need, const Id16& request_id,
                    std::function<void(absl::StatusOr<std::unique_ptr<Hold>>)> done);
  bool ExtendReserved(Hold* hold, int64_t micro);
  void OnExtended(const Id16& hold, const absl::StatusOr<v1::HoldResponse>& response);
  void Void(const Id16& hold, const Purse& purse);
  void SendVoids();
  // ---- recalls
  void CheckRecalls();
  bool SettledLocked(const Purse& purse) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  CreditClient* const client_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Purse, Account> accounts_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Id16, Purse> purse_of_slice_ ABSL_GUARDED_BY(mu_);
  // Slices that billing may have granted without our knowing, and when they were asked for.
  struct LostGrant {
    Purse purse;
    absl::Duration sent;
  };
  absl::flat_hash_map<Id16, LostGrant> lost_grants_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Id16, Reserved> reserved_ ABSL_GUARDED_BY(mu_);
  // Reserved holds that have ended with a record that is on its way.
  struct Ended {
    Purse purse;
    absl::Duration at;
  };
  absl::flat_hash_map<Id16, Ended> ended_ ABSL_GUARDED_BY(mu_);
  // Reserved holds that no request has any more: to be voided.
  struct Voiding {
    Purse purse;
    bool sent = false;
  };
  absl::flat_hash_map<Id16, Voiding> voids_ ABSL_GUARDED_BY(mu_);
  std::vector<PendingRecall> recalls_ ABSL_GUARDED_BY(mu_);
  int64_t reserved_total_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace gantry::gateway
