// Money that billing has set aside for this gateway, and what running requests hold of it.
//
// A *slice* belongs to one tenant; a *hold* is drawn from one slice and stays with it, since the usage record names
// both. Invariants, per slice: spent + held + returned <= granted; all four only grow, but held. Slices are spent until
// 90 % of their life on the monotonic clock counted from sending the request (R9); holds drawn before that live on, but
// do not grow: new holds are therefore drawn only while the slice lives on for as long as a request may take.
// Extensions go before admissions: a new hold must leave one extension for every hold that may still grow (R7).
//
// New slices are asked for in the background when less than half of one is left, so that no request waits for billing
// while the tenant is in funds. Thread-safe; callbacks run without locks on whatever thread billing's answer comes on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/ids.h"

namespace gantry::v1 {
class GrantSliceRequest;
class GrantSliceResponse;
class ReturnSliceRequest;
class ReturnSliceResponse;
}  // namespace gantry::v1

namespace gantry::gateway {

// Billing's Credit service as the book needs it. Each call has a deadline; each callback is called exactly once, never
// from inside the call.
class CreditClient {
 public:
  virtual ~CreditClient() = default;
  virtual void GrantSlice(const v1::GrantSliceRequest& request,
                          std::function<void(absl::StatusOr<v1::GrantSliceResponse>)> done) = 0;
  virtual void ReturnSlice(const v1::ReturnSliceRequest& request,
                           std::function<void(absl::StatusOr<v1::ReturnSliceResponse>)> done) = 0;
};

class CreditBook : public std::enable_shared_from_this<CreditBook> {
 public:
  struct Options {
    Id16 gateway_id;
    uint64_t gateway_epoch = 0;
    int64_t slice_micro = 1'000'000;
    absl::Duration request_life = absl::Minutes(10);  // longest request
    std::function<absl::Duration()> monotonic;
    // Writes the slice down (spool) before anything is spent from it: after a crash it must be returned. An error
    // refuses the slice. Null: nothing is written.
    std::function<absl::Status(const Id16& slice, const Id16& party, int64_t granted_micro)> on_grant;
    std::function<void(const Id16& slice)> on_closed;  // null: nobody cares
  };
  // `client` outlives the book.
  static std::shared_ptr<CreditBook> Create(Options options, CreditClient* client);
  ~CreditBook();

  // Part of a slice, given back when the object goes. One owner at a time.
  class Hold {
   public:
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    const Id16& slice() const { return slice_; }
    int64_t held_micro() const { return held_; }
    // More from the same slice. False: it has not got it, or its time is over.
    bool Extend(int64_t micro);
    // The slice's time is nearly over: who needs more takes all of it now.
    bool LastCall() const;
    // No further extension will be asked for.
    void Complete();
    // Ends the hold with what the request cost; a record that says so is on its way to billing.
    void Settle(int64_t cost_micro);

   private:
    friend class CreditBook;
    Hold(std::shared_ptr<CreditBook> book, Id16 party, Id16 slice, int64_t held, int64_t extension)
        : book_(std::move(book)), party_(party), slice_(slice), held_(held), extension_(extension) {}
    std::shared_ptr<CreditBook> book_;
    Id16 party_;
    Id16 slice_;
    int64_t held_;
    int64_t extension_;  // reserved for growth; 0 once complete
    bool open_ = true;
  };

  // `micro` now and room for `extension_micro` later. Null: no slice of the tenant has it.
  std::unique_ptr<Hold> Draw(const Id16& party, int64_t micro, int64_t extension_micro);

  // Asks billing for a slice of at least `minimum_micro`. `done` gets OK, FAILED_PRECONDITION (the money is gone; the
  // message is billing's), or UNAVAILABLE/DEADLINE_EXCEEDED (billing away). Calls for one tenant share one RPC when it
  // covers them.
  void Refill(const Id16& party, int64_t minimum_micro, std::function<void(absl::Status)> done);

  // Billing has taken a record that names this slice.
  void RecordAcked(const Id16& slice);

  // Once a second: closes slices whose time is over, and undoes grants whose answer was lost.
  void Tick();
  // Gives back everything that is not held or spent; at shutdown, when no request runs any more. Again and again until
  // closing_slices() is 0: a call may fail.
  void ReturnAll();

  struct Totals {
    int64_t granted_micro = 0;
    int64_t held_micro = 0;
    int64_t spent_micro = 0;
    int64_t returned_micro = 0;
    int slices = 0;
  };
  Totals TotalsOf(const Id16& party) const;
  // Slices that are not closed yet.
  int open_slices() const;
  // Of these, slices that nothing keeps open but billing's answer.
  int closing_slices() const;

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
    bool closing = false;        // the closing RPC is on its way
    int64_t free() const { return granted - held - spent - returned; }
  };
  struct Waiter {
    int64_t minimum;
    std::function<void(absl::Status)> done;
  };
  struct Party {
    std::vector<Slice> slices;
    bool refilling = false;
    int64_t refill_minimum = 0;
    std::vector<Waiter> waiters;
    absl::Duration no_background_until;  // after a refusal: no asking ahead for a while
  };

  CreditBook(Options options, CreditClient* client);
  Slice* FindLocked(const Id16& party, const Id16& slice) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool WantsMoreLocked(const Party& party) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StartRefill(const Id16& party_id, int64_t minimum, bool consolidated);
  void OnGranted(const Id16& party_id, int64_t minimum, bool consolidated, const Id16& slice_id, absl::Duration sent,
                 const absl::StatusOr<v1::GrantSliceResponse>& response);
  void FinishRefill(const Id16& party_id, const absl::Status& status);
  // Returns of free money that lies in slices of the party; the callback runs when all are through.
  bool ReturnFree(const Id16& party_id, std::function<void()> done);
  void RefillAhead(const Id16& party_id);
  void CloseFinished();
  void UndoLostGrants();

  const Options options_;
  CreditClient* const client_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Id16, Party> parties_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Id16, Id16> party_of_slice_ ABSL_GUARDED_BY(mu_);
  // Slices that billing may have granted without our knowing, and when they were asked for.
  absl::flat_hash_map<Id16, absl::Duration> lost_grants_ ABSL_GUARDED_BY(mu_);
};

}  // namespace gantry::gateway
