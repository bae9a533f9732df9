// R9: what a gateway that is gone had set aside, and usage that comes when it is gone.
#include <gtest/gtest.h>

#include "billing/ledger/credit.h"
#include "billing/ledger/gateways.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

constexpr int64_t kMinuteUs = 60'000'000;

class Fencing : public ::testing::Test {
 protected:
  Id16 Hold(int64_t micro, uint64_t epoch = 1) {
    v1::ReserveRequest request;
    request.set_hold_id(NewTimeOrderedId().ToBytes());
    request.set_gateway_id(books_.gateway().ToBytes());
    request.set_gateway_epoch(epoch);
    request.set_party_id(books_.tenant().ToBytes());
    request.set_key_id(books_.key().ToBytes());
    request.set_request_id(NewTimeOrderedId().ToBytes());
    request.set_amount_micro(micro);
    request.set_plan_version_id(books_.plan().ToBytes());
    books_.Do([&](Database& db) { return Reserve(db, request, books_.now_us()).status(); });
    return *Id16::FromBytes(request.hold_id());
  }
  // The gateway starts again, now.
  void Restart(uint64_t epoch = 2) {
    books_.Do([&](Database& db) { return EnterEpoch(db, books_.gateway(), epoch, books_.now_us()).status(); });
  }
  // What the process does about older epochs, `wait_us` = longest request + witness deadline.
  void Release(int64_t wait_us) {
    books_.Do([&](Database& db) { return ReleaseFenced(db, books_.now_us() - wait_us), absl::OkStatus(); });
  }
  int64_t Held() { return books_.FundsOfParty(books_.tenant()).held_micro; }
  int64_t Posted() { return books_.FundsOfParty(books_.tenant()).posted_micro; }
  int64_t LateUnheld() {
    return books_.Int("SELECT coalesce(sum(debit_micro - credit_micro), 0) FROM account WHERE type = 'late_unheld'");
  }
  v1::UsageRecord RecordOfHold(const Id16& hold, uint64_t output) {
    v1::UsageRecord record = books_.Record(Id16{}, 0, output);
    record.clear_slice_id();
    record.set_hold_id(hold.ToBytes());
    return record;
  }

  Books books_;
};

TEST_F(Fencing, WhatALiveEpochHoldsNeverExpires) {
  books_.Slice(1000);
  Hold(500);
  books_.Advance(int64_t{365} * 24 * 60 * kMinuteUs);
  Release(75 * kMinuteUs);
  EXPECT_EQ(Held(), 1500);
}

TEST_F(Fencing, ANewerEpochFencesWhatTheOlderMayDo) {
  Restart(7);
  for (const uint64_t epoch : {1, 6}) EXPECT_TRUE(books_.Slice(100, epoch).IsZero()) << epoch;
  v1::ReserveRequest request;
  request.set_hold_id(NewTimeOrderedId().ToBytes());
  request.set_gateway_id(books_.gateway().ToBytes());
  request.set_gateway_epoch(6);
  request.set_party_id(books_.tenant().ToBytes());
  request.set_key_id(books_.key().ToBytes());
  request.set_request_id(NewTimeOrderedId().ToBytes());
  request.set_amount_micro(1);
  request.set_plan_version_id(books_.plan().ToBytes());
  const absl::Status status =
      books_.store().WriteAndWait([&](Database& db) { return Reserve(db, request, books_.now_us()).status(); });
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_FALSE(books_.Slice(100, 7).IsZero());
}

TEST_F(Fencing, FencedMoneyIsFreedAfterTheLongestRequestAndTheWitnessDeadlineAndNotBefore) {
  books_.Slice(1000);
  Hold(500);
  Restart();
  books_.Advance(75 * kMinuteUs);
  Release(75 * kMinuteUs);
  EXPECT_EQ(Held(), 1500);
  books_.Advance(1);
  Release(75 * kMinuteUs);
  EXPECT_EQ(Held(), 0);
  EXPECT_EQ(books_.Int("SELECT state FROM hold"), v1::HOLD_STATE_EXPIRED);
  EXPECT_TRUE(books_.Audited().ok());
}

TEST_F(Fencing, TheNewEpochsOwnMoneyStays) {
  books_.Slice(1000);
  Restart();
  books_.Slice(300, 2);
  books_.Advance(100 * kMinuteUs);
  Release(75 * kMinuteUs);
  EXPECT_EQ(Held(), 300);
}

TEST_F(Fencing, UsageOfAFencedSliceIsPaidFromWhatIsStillHeld) {
  const Id16 slice = books_.Slice(1000);
  Restart();
  ASSERT_EQ(books_.Append(books_.Record(slice, 0, 1000)).record_ids_size(), 1);  // 800
  EXPECT_EQ(Posted(), 10'000'000 - 800);
  EXPECT_EQ(Held(), 200);
  EXPECT_EQ(LateUnheld(), 0);
}

TEST_F(Fencing, WhatAFencedSliceCannotPayIsTheHousesAndNoOverdraft) {
  const Id16 slice = books_.Slice(300);
  Restart();
  ASSERT_EQ(books_.Append(books_.Record(slice, 0, 1000)).record_ids_size(), 1);
  EXPECT_EQ(Posted(), 10'000'000 - 300);
  EXPECT_EQ(LateUnheld(), 500);
  EXPECT_TRUE(books_.Audited().ok());
}

TEST_F(Fencing, UsageOfAFencedHoldIsPaidFromWhatIsStillHeld) {
  const Id16 hold = Hold(600);
  Restart();
  ASSERT_EQ(books_.Append(RecordOfHold(hold, 1000)).record_ids_size(), 1);
  EXPECT_EQ(Posted(), 10'000'000 - 600);
  EXPECT_EQ(LateUnheld(), 200);
  EXPECT_EQ(Held(), 0);
}

TEST_F(Fencing, UsageThatComesAfterTheMoneyWasFreedIsTakenAndPaidByTheHouse) {
  const Id16 slice = books_.Slice(1000);
  const Id16 hold = Hold(1000);
  Restart();
  books_.Advance(76 * kMinuteUs);
  Release(75 * kMinuteUs);
  ASSERT_EQ(books_.Append(books_.Record(slice, 0, 1000)).record_ids_size(), 1);
  ASSERT_EQ(books_.Append(RecordOfHold(hold, 1000)).record_ids_size(), 1);
  EXPECT_EQ(Posted(), 10'000'000);
  EXPECT_EQ(LateUnheld(), 1600);
  EXPECT_TRUE(books_.Audited().ok());
}

TEST_F(Fencing, AForgottenGatewayIsFencedAtOnceAndFreedByTheSameRule) {
  books_.Slice(1000);
  books_.Do([&](Database& db) { return ForgetGateway(db, books_.gateway(), books_.now_us()); });
  EXPECT_TRUE(books_.Slice(1, 1).IsZero()) << "the epoch that was";
  EXPECT_EQ(Held(), 1000);
  v1::GatewayStatus status =
      books_.Get<v1::GatewayStatus>([&](Database& db) { return FindGateway(db, books_.gateway(), 75 * kMinuteUs); });
  EXPECT_EQ(status.forgotten_us(), books_.now_us());
  EXPECT_EQ(status.freed_us(), books_.now_us() + 75 * kMinuteUs);
  EXPECT_EQ(status.money(0).fenced_micro(), 1000);
  books_.Advance(75 * kMinuteUs + 1);
  Release(75 * kMinuteUs);
  EXPECT_EQ(Held(), 0);
  // Its next start has an epoch of its time.
  EXPECT_FALSE(books_.Slice(5, static_cast<uint64_t>(books_.now_us())).IsZero());
  status =
      books_.Get<v1::GatewayStatus>([&](Database& db) { return FindGateway(db, books_.gateway(), 75 * kMinuteUs); });
  EXPECT_EQ(status.forgotten_us(), 0);
  EXPECT_EQ(status.freed_us(), 0);
}

TEST_F(Fencing, OnlyGatewaysThatWentInGoodOrderOrWereForgottenAreNotWaitedFor) {
  Restart(1);
  const auto may_run = [&] {
    return books_.Get<int64_t>([](Database& db) { return absl::StatusOr<int64_t>(GatewaysThatMayRun(db).size()); });
  };
  EXPECT_EQ(may_run(), 1);
  books_.Do([&](Database& db) { return NoteLeft(db, 1, books_.now_us()), absl::OkStatus(); });
  EXPECT_EQ(may_run(), 0);
  books_.Do([&](Database& db) { return NoteReturned(db, 1), absl::OkStatus(); });
  EXPECT_EQ(may_run(), 1);
  books_.Do([&](Database& db) { return ForgetGateway(db, books_.gateway(), books_.now_us()); });
  EXPECT_EQ(may_run(), 0);
  Restart(static_cast<uint64_t>(books_.now_us()) + 1);
  EXPECT_EQ(may_run(), 1);
}

// ---- R6: slices or holds ----

TEST_F(Fencing, SlicesAreGrantedWhileThereIsOneForEachGateway) {
  const auto grant = [&](int64_t wanted, int gateways, bool called_back = false) {
    v1::GrantSliceRequest request;
    request.set_slice_id(NewTimeOrderedId().ToBytes());
    request.set_gateway_id(books_.gateway().ToBytes());
    request.set_gateway_epoch(1);
    request.set_party_id(books_.tenant().ToBytes());
    request.set_wanted_micro(wanted);
    request.set_minimum_micro(1);
    Lending lending{.gateways = gateways, .called_back = nullptr};
    if (called_back) lending.called_back = [](const CreditScope&) { return true; };
    return books_.Get<v1::GrantSliceResponse>(
        [&](Database& db) { return GrantSlice(db, request, books_.now_us(), lending); });
  };
  // 10,000,000 are left.
  EXPECT_FALSE(grant(3'000'000, 3).reserve());
  EXPECT_FALSE(grant(3'000'000, 3).reserve()) << "what is set aside is left as well";
  const v1::GrantSliceResponse scarce = grant(3'500'000, 3);
  EXPECT_TRUE(scarce.reserve());
  EXPECT_EQ(scarce.granted_micro(), 0);
  EXPECT_EQ(grant(3'500'000, 1).granted_micro(), 3'500'000) << "one alone may have it";
  EXPECT_TRUE(grant(100, 1, /*called_back=*/true).reserve()) << "a recall was a moment ago";
}

TEST_F(Fencing, AGrantThatOthersCouldPayForIsServedByReserve) {
  const Id16 other = NewTimeOrderedId();
  v1::GrantSliceRequest request;
  request.set_slice_id(NewTimeOrderedId().ToBytes());
  request.set_gateway_id(other.ToBytes());
  request.set_gateway_epoch(1);
  request.set_party_id(books_.tenant().ToBytes());
  request.set_wanted_micro(10);
  request.set_minimum_micro(10);
  books_.Slice(10'000'000);
  const auto grant = [&] {
    return books_.Get<v1::GrantSliceResponse>([&](Database& db) { return GrantSlice(db, request, books_.now_us()); });
  };
  EXPECT_TRUE(grant().reserve()) << "the other gateway has it";
  Restart();
  const absl::Status fenced =
      books_.store().WriteAndWait([&](Database& db) { return GrantSlice(db, request, books_.now_us()).status(); });
  EXPECT_TRUE(absl::IsFailedPrecondition(fenced)) << "one that is gone gives nothing back: " << fenced;
}

}  // namespace
}  // namespace gantry::billing
