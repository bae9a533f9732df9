#include "billing/ledger/credit.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "billing/ledger/ledger.h"
#include "billing/testing/books.h"
#include "engine/base/long_test_util.h"

namespace gantry::billing {
namespace {

v1::GrantSliceRequest Grant(const Books& books, int64_t wanted, int64_t minimum, uint64_t epoch = 1) {
  v1::GrantSliceRequest request;
  request.set_slice_id(NewTimeOrderedId().ToBytes());
  request.set_gateway_id(books.gateway().ToBytes());
  request.set_gateway_epoch(epoch);
  request.set_party_id(books.tenant().ToBytes());
  request.set_wanted_micro(wanted);
  request.set_minimum_micro(minimum);
  return request;
}

absl::StatusOr<v1::GrantSliceResponse> Try(Books& books, const v1::GrantSliceRequest& request) {
  return books.Try<v1::GrantSliceResponse>([&](Database& db) { return GrantSlice(db, request, books.now_us()); });
}

v1::ReturnSliceResponse Return(Books& books, const std::string& slice_id, int64_t returned, bool close) {
  v1::ReturnSliceRequest request;
  request.set_slice_id(slice_id);
  request.set_returned_micro(returned);
  request.set_close(close);
  return books.Get<v1::ReturnSliceResponse>([&](Database& db) { return ReturnSlice(db, request, books.now_us()); });
}

Funds FundsNow(Books& books) {
  return books.FundsOfParty(books.tenant());
}

TEST(Slices, GrantWhatIsLeftButNeverLessThanTheMinimum) {
  Books books;
  auto first = Try(books, Grant(books, 7'000'000, 1));
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->granted_micro(), 7'000'000);
  EXPECT_EQ(first->currency(), "EUR");
  EXPECT_EQ(first->available_micro(), 3'000'000);
  auto second = Try(books, Grant(books, 7'000'000, 3'000'000));
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->granted_micro(), 3'000'000);
  auto third = Try(books, Grant(books, 10, 1));
  EXPECT_TRUE(absl::IsFailedPrecondition(third.status())) << third.status();
  EXPECT_EQ(third.status().message(),
            "insufficient funds: balance 10000000, held 10000000, available 0, asked 1 (millionths of EUR)");
}

TEST(Slices, ARepeatGivesTheFirstAnswerAndOtherContentIsRefused) {
  Books books;
  v1::GrantSliceRequest request = Grant(books, 1'000'000, 500'000);
  ASSERT_TRUE(Try(books, request).ok());
  auto repeat = Try(books, request);
  ASSERT_TRUE(repeat.ok());
  EXPECT_EQ(repeat->granted_micro(), 1'000'000);
  EXPECT_EQ(FundsNow(books).held_micro, 1'000'000);
  request.set_wanted_micro(2'000'000);
  EXPECT_TRUE(absl::IsAlreadyExists(Try(books, request).status()));
}

TEST(Slices, WhatIsReturnedCanBeGrantedAgain) {
  Books books;
  v1::GrantSliceRequest request = Grant(books, 10'000'000, 10'000'000);
  ASSERT_TRUE(Try(books, request).ok());
  EXPECT_EQ(Return(books, request.slice_id(), 4'000'000, false).remaining_micro(), 6'000'000);
  EXPECT_EQ(Return(books, request.slice_id(), 4'000'000, false).remaining_micro(), 6'000'000) << "cumulative";
  EXPECT_EQ(FundsNow(books).available_micro, 4'000'000);
  EXPECT_EQ(Return(books, request.slice_id(), 4'000'000, true).remaining_micro(), 0);
  EXPECT_EQ(FundsNow(books).available_micro, 10'000'000);
  EXPECT_EQ(Return(books, request.slice_id(), 4'000'000, true).remaining_micro(), 0) << "closing twice";
  EXPECT_EQ(FundsNow(books).available_micro, 10'000'000);
}

TEST(Slices, MoreThanThereIsCannotComeBack) {
  Books books;
  const Id16 slice = books.Slice(100);
  v1::ReturnSliceRequest request;
  request.set_slice_id(slice.ToBytes());
  request.set_returned_micro(101);
  absl::Status status =
      books.store().WriteAndWait([&](Database& db) { return ReturnSlice(db, request, books.now_us()).status(); });
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
}

TEST(Slices, ClosingBeforeTheGrantArrivesForbidsIt) {
  Books books;
  v1::GrantSliceRequest request = Grant(books, 100, 100);
  Return(books, request.slice_id(), 0, true);
  EXPECT_TRUE(absl::IsAlreadyExists(Try(books, request).status()));
  EXPECT_EQ(FundsNow(books).held_micro, 0);
}

TEST(Slices, AnOlderEpochIsFenced) {
  Books books;
  ASSERT_TRUE(Try(books, Grant(books, 100, 100, 7)).ok());
  EXPECT_TRUE(absl::IsAborted(Try(books, Grant(books, 100, 100, 6)).status()));
  ASSERT_TRUE(Try(books, Grant(books, 100, 100, 8)).ok());
  auto fenced = [&] {
    return books.Get<int64_t>([](Database& db) { return absl::StatusOr<int64_t>(CountFenced(db)); });
  };
  EXPECT_EQ(fenced(), 1) << "the slice of epoch 7";
  books.Advance(10);
  books.Do([&](Database& db) { return ReleaseFenced(db, books.now_us()), absl::OkStatus(); });
  EXPECT_EQ(fenced(), 0);
  EXPECT_EQ(FundsNow(books).held_micro, 100);
}

TEST(Slices, PartiesThatMayNotSpendGetNone) {
  Books books;
  books.Do([&](Database& db) {
    db.Execute("UPDATE party SET status = 2 WHERE party_id = ?", books.tenant());
    return absl::OkStatus();
  });
  EXPECT_TRUE(absl::IsFailedPrecondition(Try(books, Grant(books, 1, 1)).status()));
  v1::GrantSliceRequest nobody = Grant(books, 1, 1);
  nobody.set_party_id(NewTimeOrderedId().ToBytes());
  EXPECT_TRUE(absl::IsNotFound(Try(books, nobody).status()));
}

TEST(Slices, SixtyFourThreadsCannotOverdraw) {
  Books books;
  std::atomic<int64_t> granted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 64; ++t) {
    threads.emplace_back([&, t] {
      std::minstd_rand random(static_cast<unsigned>(t));
      for (int i = 0; i < 50; ++i) {
        v1::GrantSliceRequest request = Grant(books, 1 + static_cast<int64_t>(random() % 50'000), 1);
        auto response = Try(books, request);
        if (!response.ok()) {
          EXPECT_TRUE(absl::IsFailedPrecondition(response.status())) << response.status();
          continue;
        }
        granted += response->granted_micro();
        if (random() % 3 == 0) {
          Return(books, request.slice_id(), 0, true);
          granted -= response->granted_micro();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Funds funds = FundsNow(books);
  EXPECT_EQ(funds.held_micro, granted);
  EXPECT_GE(funds.available_micro, 0);
  EXPECT_TRUE(books.Audited().ok());
}

// ---- holds ----

v1::ReserveRequest ReserveOf(const Books& books, int64_t micro) {
  v1::ReserveRequest request;
  request.set_hold_id(NewTimeOrderedId().ToBytes());
  request.set_gateway_id(books.gateway().ToBytes());
  request.set_gateway_epoch(1);
  request.set_party_id(books.tenant().ToBytes());
  request.set_key_id(books.key().ToBytes());
  request.set_request_id(NewTimeOrderedId().ToBytes());
  request.set_amount_micro(micro);
  request.set_plan_version_id(books.plan().ToBytes());
  return request;
}

TEST(Holds, LiveOnceAndEndOnce) {
  Books books;
  const v1::ReserveRequest request = ReserveOf(books, 1000);
  auto reserve = [&](Database& db) { return Reserve(db, request, books.now_us()); };
  EXPECT_EQ(books.Get<v1::HoldResponse>(reserve).held_micro(), 1000);
  EXPECT_EQ(books.Get<v1::HoldResponse>(reserve).held_micro(), 1000) << "a repeat";
  v1::ExtendHoldRequest extend;
  extend.set_hold_id(request.hold_id());
  extend.set_extension(1);
  extend.set_add_micro(500);
  auto grow = [&](Database& db) { return ExtendHold(db, extend); };
  EXPECT_EQ(books.Get<v1::HoldResponse>(grow).held_micro(), 1500);
  EXPECT_EQ(books.Get<v1::HoldResponse>(grow).held_micro(), 1500) << "a repeat";
  EXPECT_EQ(FundsNow(books).held_micro, 1500);
  v1::VoidHoldRequest end;
  end.set_hold_id(request.hold_id());
  auto discard = [&](Database& db) { return VoidHold(db, end, books.now_us()); };
  EXPECT_EQ(books.Get<v1::HoldResponse>(discard).state(), v1::HOLD_STATE_VOID);
  EXPECT_EQ(books.Get<v1::HoldResponse>(discard).state(), v1::HOLD_STATE_VOID) << "a repeat";
  EXPECT_EQ(FundsNow(books).held_micro, 0);
  extend.set_extension(2);
  absl::Status status = books.store().WriteAndWait([&](Database& db) { return ExtendHold(db, extend).status(); });
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(books.Audited().ok());
}

// 64 clients on a small balance: what is held never passes it, what is settled never passes what is held.
TEST(Holds, RacesNeverOverdraw) {
  const int rounds = engine::LongTests() ? 10'000 : 500;
  Books books;
  std::atomic<int64_t> reserved{0}, refused{0}, most{0}, held{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 64; ++t) {
    threads.emplace_back([&, t] {
      std::minstd_rand random(static_cast<unsigned>(t + 1));
      for (int i = 0; i < rounds; ++i) {
        const v1::ReserveRequest request = ReserveOf(books, 100 + static_cast<int64_t>(random() % 1'000'000));
        const absl::Status status =
            books.store().WriteAndWait([&](Database& db) { return Reserve(db, request, books.now_us()).status(); });
        if (!status.ok()) {
          ASSERT_TRUE(absl::IsFailedPrecondition(status)) << status;
          ++refused;
          continue;
        }
        ++reserved;
        const int64_t now_held = held += request.amount_micro();
        for (int64_t seen = most; seen < now_held && !most.compare_exchange_weak(seen, now_held);) {
        }
        std::this_thread::yield();
        held -= request.amount_micro();  // no longer than it really is
        if (random() % 2 == 0) {
          // A request that costs at most what was held: 0.8 micro-units a token.
          v1::UsageRecord record = books.Record(Id16{}, 0, random() % 50);
          record.clear_slice_id();
          record.set_request_id(request.request_id());
          record.set_hold_id(request.hold_id());
          books.Append(record);
        } else {
          v1::VoidHoldRequest end;
          end.set_hold_id(request.hold_id());
          books.Do([&](Database& db) { return VoidHold(db, end, books.now_us()).status(); });
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Funds funds = FundsNow(books);
  EXPECT_EQ(funds.held_micro, 0);
  EXPECT_GE(funds.available_micro, 0);
  EXPECT_LE(most.load(), 10'000'000);
  EXPECT_EQ(books.Int("SELECT count(*) FROM account WHERE type = 'late_unheld'"), 0) << "nothing was left uncovered";
  EXPECT_GT(reserved.load(), 0);
  EXPECT_GT(refused.load(), 0) << "the balance was small enough to matter";
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();
  std::printf("64 clients x %d: %lld reserved, %lld refused, overdraft 0\n", rounds,
              static_cast<long long>(reserved.load()), static_cast<long long>(refused.load()));
}

TEST(Holds, VoidingBeforeTheReservationArrivesForbidsIt) {
  Books books;
  const v1::ReserveRequest request = ReserveOf(books, 1000);
  v1::VoidHoldRequest end;
  end.set_hold_id(request.hold_id());
  books.Do([&](Database& db) { return VoidHold(db, end, books.now_us()).status(); });
  books.Do([&](Database& db) { return VoidHold(db, end, books.now_us()).status(); });
  const absl::Status late =
      books.store().WriteAndWait([&](Database& db) { return Reserve(db, request, books.now_us()).status(); });
  EXPECT_TRUE(absl::IsAlreadyExists(late)) << late;
  EXPECT_EQ(FundsNow(books).held_micro, 0);
}

TEST(Holds, EndWithTheirUsage) {
  Books books;
  const v1::ReserveRequest request = ReserveOf(books, 1'000'000);
  books.Get<v1::HoldResponse>([&](Database& db) { return Reserve(db, request, books.now_us()); });
  v1::UsageRecord record = books.Record(Id16{}, 1000, 1000);
  record.clear_slice_id();
  record.set_hold_id(request.hold_id());
  ASSERT_EQ(books.Append(record).record_ids_size(), 1);
  Funds funds = FundsNow(books);
  EXPECT_EQ(funds.held_micro, 0);
  EXPECT_EQ(funds.posted_micro, 10'000'000 - 1000);  // 1000 x 0.2 + 1000 x 0.8 micro-units
  EXPECT_EQ(books.Int("SELECT settled_micro FROM hold"), 1000);
  EXPECT_TRUE(books.Audited().ok());
}

}  // namespace
}  // namespace gantry::billing
