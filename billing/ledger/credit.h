// Money set aside before it is used: slices for gateways, holds for single requests (contract: service Credit).
//
// A slice's remaining = granted - spent - returned is part of its account's `held` while it is open. A gateway that
// starts again gets a larger epoch; slices of older epochs are *fenced*: nothing new is granted under them, usage is
// still settled against them until the gateway closes them or `ReleaseFenced` gives up waiting (R9).
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/ledger/credit_scopes.h"
#include "billing/store/database.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

inline constexpr int64_t kSliceLifeMs = 600'000;
// Shorter ones are not worth having: so near the end of a budget's period requests have holds of their own.
inline constexpr uint64_t kLeastSliceLifeMs = 30'000;

// Notes that a gateway runs as `epoch`; an older one than known is fenced: ABORTED. Every first contact of a gateway
// comes here, so that what its dead predecessor held shows as open. Returns the number that rows know it by.
absl::StatusOr<int64_t> EnterEpoch(Database& db, const Id16& gateway_id, uint64_t epoch, int64_t now_us);

// What decides whether money is lent out in slices or request by request (R6).
struct Lending {
  int gateways = 1;  // that are attached
  // Whether slices that take from this scope were called back a moment ago; null: none was.
  std::function<bool(const CreditScope&)> called_back;
};

// `reserve` in the answer: what is left of some scope is less than gateways x slice, or others have to give back first.
// Errors beside those of the contract: ABORTED for a fenced epoch, ALREADY_EXISTS for a slice id used otherwise.
absl::StatusOr<v1::GrantSliceResponse> GrantSlice(Database& db, const v1::GrantSliceRequest& request, int64_t now_us,
                                                  const Lending& lending = {});
// Closing a slice that was never granted makes its id unusable: the grant may still be on its way.
absl::StatusOr<v1::ReturnSliceResponse> ReturnSlice(Database& db, const v1::ReturnSliceRequest& request,
                                                    int64_t now_us);

// When money is short, *short_of (may be null) is what there is too little of: others may have to give back.
absl::StatusOr<v1::HoldResponse> Reserve(Database& db, const v1::ReserveRequest& request, int64_t now_us,
                                         CreditScope* short_of = nullptr);
absl::StatusOr<v1::HoldResponse> ExtendHold(Database& db, const v1::ExtendHoldRequest& request,
                                            CreditScope* short_of = nullptr);
// Releases the hold; `amount_micro` of a hold that usage has not settled must be 0: money moves with usage only.
absl::StatusOr<v1::HoldResponse> SettleHold(Database& db, const v1::SettleHoldRequest& request);
// Voiding a hold that was never reserved makes its id unusable: the reservation may still be on its way.
absl::StatusOr<v1::HoldResponse> VoidHold(Database& db, const v1::VoidHoldRequest& request, int64_t now_us);

// What pays for a request: a slice, or a hold of its own, or nothing that is known.
struct CreditRef {
  enum Kind { kNone, kSlice, kHold } kind = kNone;
  Id16 id;
  int64_t party_no = 0;
  int64_t left_micro = 0;  // still set aside; 0 once closed or ended
  int64_t granted_us = 0;  // 0: unknown
  int64_t budget_no = 0;   // that it counts in; 0: none
};
// A slice when `slice_id` is not zero, else a hold.
CreditRef FindCredit(Database& db, const Id16& slice_id, const Id16& hold_id);

// Takes up to `micro` of what is set aside of the tenant under `credit`, all of it still counted as held of its
// account: the posting releases it. A hold ends with that: what it had beyond is released here.
int64_t TakeHeld(Journal& journal, const CreditRef& credit, Account& account, int64_t micro);

// Closes fenced slices, and voids pending holds of fenced epochs, whose gateway started its
// newer epoch before `fenced_before_us`.
void ReleaseFenced(Database& db, int64_t fenced_before_us);

// Open slices of epochs that are over, and pending holds: money set aside that nobody may be working with.
int64_t CountFenced(Database& db);

// After a restore: what gateways were granted before belongs to the past, as if each had started again. What they used
// of it is taken when their records come; the rest is freed as for any gateway that is gone.
void FenceGateways(Database& db, int64_t now_us);

}  // namespace gantry::billing
