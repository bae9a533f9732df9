#include "gateway/admission/credit_book.h"

#include <atomic>
#include <random>
#include <thread>

#include "gantry/v1/lease.pb.h"
#include "gateway/admission/orphan_slices.h"
#include "gateway/testing/fake_credit.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gantry::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Id16 kTenant = *Id16::FromHex("000000000000000000000000000000aa");

class CreditBookTest : public ::testing::Test {
 protected:
  std::shared_ptr<CreditBook> MakeBook(int64_t slice_micro = 1000) {
    CreditBook::Options options;
    options.gateway_epoch = 1;
    options.slice_micro = slice_micro;
    options.request_life = absl::Minutes(10);
    options.monotonic = [this] { return now_; };
    options.on_grant = [this](const Id16&, const Id16&, int64_t) { return write_status_; };
    options.on_closed = [this](const Id16&) { ++closed_; };
    return CreditBook::Create(std::move(options), &credit_);
  }
  // The status with which a refill ended.
  absl::Status Refill(CreditBook& book, int64_t minimum) {
    absl::Status result = absl::UnknownError("not called");
    book.Refill(kTenant, minimum, [&](const absl::Status& status) { result = status; });
    credit_.Answer();
    return result;
  }

  absl::Duration now_ = absl::Hours(5);
  FakeCredit credit_{10'000};
  absl::Status write_status_;
  int closed_ = 0;
};

TEST_F(CreditBookTest, NothingIsDrawnBeforeThereIsASlice) {
  auto book = MakeBook();
  EXPECT_EQ(book->Draw(kTenant, 1, 0), nullptr);
  EXPECT_TRUE(Refill(*book, 10).ok());
  EXPECT_THAT(credit_.log(), ElementsAre("grant 10..1000"));
  EXPECT_NE(book->Draw(kTenant, 1000, 0), nullptr);
}

TEST_F(CreditBookTest, AHoldGivesBackWhatItDidNotCost) {
  auto book = MakeBook();
  ASSERT_TRUE(Refill(*book, 10).ok());
  {
    auto hold = book->Draw(kTenant, 400, 0);
    EXPECT_EQ(book->TotalsOf(kTenant).held_micro, 400);
    hold->Settle(150);
    EXPECT_EQ(book->TotalsOf(kTenant).held_micro, 0);
    EXPECT_EQ(book->TotalsOf(kTenant).spent_micro, 150);
  }
  { auto dropped = book->Draw(kTenant, 850, 0); }
  EXPECT_EQ(book->TotalsOf(kTenant).held_micro, 0);
  EXPECT_EQ(book->TotalsOf(kTenant).spent_micro, 150);
}

TEST_F(CreditBookTest, ExtensionsGoBeforeAdmissions) {
  auto book = MakeBook();
  ASSERT_TRUE(Refill(*book, 10).ok());
  auto running = book->Draw(kTenant, 300, 200);
  EXPECT_EQ(book->Draw(kTenant, 400, 200), nullptr) << "300 held, 200 kept for the extension, 500 are left";
  auto small = book->Draw(kTenant, 300, 200);
  ASSERT_NE(small, nullptr);
  EXPECT_TRUE(running->Extend(200));
  EXPECT_TRUE(small->Extend(200));
  EXPECT_FALSE(small->Extend(1)) << "the slice is used up";
  running->Complete();
  running->Settle(100);
  EXPECT_TRUE(small->Extend(300)) << "what another gave back";
}

TEST_F(CreditBookTest, TheNextSliceIsFetchedBeforeTheFirstIsUsedUp) {
  auto book = MakeBook();
  ASSERT_TRUE(Refill(*book, 10).ok());
  auto first = book->Draw(kTenant, 400, 0);
  EXPECT_EQ(credit_.Answer(), 0) << "more than half is left";
  auto second = book->Draw(kTenant, 200, 0);
  EXPECT_EQ(credit_.Answer(), 1);
  EXPECT_THAT(credit_.log(), ElementsAre("grant 10..1000", "grant 1..1000"));
  EXPECT_EQ(book->TotalsOf(kTenant).slices, 2);
}

TEST_F(CreditBookTest, WaitersShareARefillThatCoversThem) {
  auto book = MakeBook();
  std::vector<std::string> ended;
  for (const int64_t minimum : {100, 50, 3000}) {
    book->Refill(kTenant, minimum, [&ended, minimum](const absl::Status& status) {
      ended.push_back(absl::StrCat(minimum, status.ok() ? " ok" : " refused"));
    });
  }
  credit_.Answer();
  EXPECT_THAT(credit_.log(), ElementsAre("grant 100..1000", "grant 3000..3000"));
  EXPECT_THAT(ended, ElementsAre("100 ok", "50 ok", "3000 ok"));
}

TEST_F(CreditBookTest, MoneyThatIsGoneAndBillingThatIsAwayAreToldApart) {
  auto book = MakeBook();
  EXPECT_EQ(Refill(*book, 20'000).code(), absl::StatusCode::kFailedPrecondition);
  credit_.Fail(absl::UnavailableError("away"));
  EXPECT_EQ(Refill(*book, 10).code(), absl::StatusCode::kUnavailable);
}

TEST_F(CreditBookTest, WhatLiesScatteredInOwnSlicesIsPutTogetherBeforeAnyoneIsRefused) {
  FakeCredit poor(1000);
  CreditBook::Options options;
  options.slice_micro = 400;
  options.monotonic = [this] { return now_; };
  auto book = CreditBook::Create(std::move(options), &poor);
  for (int i = 0; i < 2; ++i) {
    book->Refill(kTenant, 400, [](const absl::Status&) {});
    poor.Answer();
  }
  // 400 and 400 here, 200 at billing: 900 are in no single place.
  absl::Status result;
  book->Refill(kTenant, 900, [&](const absl::Status& status) { result = status; });
  poor.Answer();
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_NE(book->Draw(kTenant, 900, 0), nullptr);
}

TEST_F(CreditBookTest, ASliceIsSpentUntilNinetyPercentOfItsLife) {
  credit_.set_life(absl::Hours(1));
  auto book = MakeBook();
  ASSERT_TRUE(Refill(*book, 10).ok());
  now_ += absl::Minutes(43);
  auto hold = book->Draw(kTenant, 100, 0);
  ASSERT_NE(hold, nullptr);
  now_ += absl::Minutes(2);
  EXPECT_EQ(book->Draw(kTenant, 100, 0), nullptr) << "a request of 10 minutes would outlive it";
  EXPECT_TRUE(hold->Extend(100));
  EXPECT_FALSE(hold->LastCall());
  now_ += absl::Minutes(8.5);
  EXPECT_TRUE(hold->LastCall()) << "a minute before the end";
  now_ += absl::Minutes(1);
  EXPECT_FALSE(hold->Extend(100));
  EXPECT_EQ(hold->held_micro(), 200) << "but what is held stays";
}

TEST_F(CreditBookTest, ALifeIsCountedFromSendingTheRequest) {
  credit_.set_life(absl::Hours(1));
  auto book = MakeBook();
  book->Refill(kTenant, 10, [](const absl::Status&) {});
  now_ += absl::Minutes(40);
  credit_.Answer();  // billing took its time, and its own life of the slice began no earlier than ours
  auto hold = book->Draw(kTenant, 100, 0);
  ASSERT_NE(hold, nullptr);
  now_ += absl::Minutes(4);
  EXPECT_EQ(book->Draw(kTenant, 100, 0), nullptr) << "90 % of an hour less ten minutes";
  EXPECT_TRUE(hold->Extend(100));
  now_ += absl::Minutes(10);
  EXPECT_FALSE(hold->Extend(100)) << "90 % of an hour";
}

TEST_F(CreditBookTest, ASliceIsClosedWhenItsHoldsHaveEndedAndBillingHasTheirRecords) {
  auto book = MakeBook();
  ASSERT_TRUE(Refill(*book, 10).ok());
  auto hold = book->Draw(kTenant, 100, 0);
  const Id16 slice = hold->credit();
  now_ += absl::Hours(2);
  book->Tick();
  EXPECT_EQ(credit_.Answer(), 0) << "a hold is open";
  hold->Settle(60);
  book->Tick();
  EXPECT_EQ(credit_.Answer(), 0) << "billing has no record of it yet";
  book->RecordAcked(slice);
  credit_.Fail(absl::UnavailableError("away"));
  book->Tick();
  credit_.Answer();
  EXPECT_EQ(book->open_slices(), 1) << "asked again until it is answered";
  credit_.Fail(absl::OkStatus());
  book->Tick();
  credit_.Answer();
  EXPECT_EQ(credit_.log().back(), "close 940");
  EXPECT_EQ(book->open_slices(), 0);
  EXPECT_EQ(closed_, 1);
}

TEST_F(CreditBookTest, ShutdownReturnsEverything) {
  auto book = MakeBook();
  ASSERT_TRUE(Refill(*book, 10).ok());
  book->ReturnAll();
  credit_.Answer();
  EXPECT_EQ(book->open_slices(), 0);
  EXPECT_EQ(book->closing(), 0);
  EXPECT_EQ(credit_.available(), 10'000);
}

TEST_F(CreditBookTest, ASliceThatCannotBeWrittenDownIsNotSpent) {
  auto book = MakeBook();
  write_status_ = absl::UnavailableError("disk full");
  EXPECT_THAT(std::string(Refill(*book, 10).message()), HasSubstr("disk full"));
  EXPECT_EQ(book->Draw(kTenant, 1, 0), nullptr);
  credit_.Answer();
  EXPECT_EQ(credit_.available(), 10'000);
}

TEST_F(CreditBookTest, AGrantWhoseAnswerWasLostIsUndone) {
  auto book = MakeBook();
  credit_.Fail(absl::DeadlineExceededError("lost"), /*lost=*/true);
  EXPECT_FALSE(Refill(*book, 10).ok());
  EXPECT_EQ(credit_.open_slices(), 1);
  book->Tick();
  credit_.Answer();
  EXPECT_EQ(credit_.open_slices(), 1) << "billing is still away";
  credit_.Fail(absl::OkStatus());
  book->Tick();
  credit_.Answer();
  EXPECT_EQ(credit_.open_slices(), 0);
  const size_t calls = credit_.log().size();
  book->Tick();
  credit_.Answer();
  EXPECT_EQ(credit_.log().size(), calls) << "once is enough";
}

// ---- when money is short ----

class ShortOfMoneyTest : public CreditBookTest {
 protected:
  ShortOfMoneyTest() : book_(MakeBook()) { credit_.set_reserve(true); }
  // A hold for 300 that may grow by 200; null with the status in `status_`.
  std::unique_ptr<CreditBook::Hold> Obtain(int64_t micro = 300, int64_t extension = 200) {
    std::unique_ptr<CreditBook::Hold> hold;
    book_->Obtain({.purse = kTenant, .micro = micro, .extension_micro = extension}, NewTimeOrderedId(),
                  [&](absl::StatusOr<std::unique_ptr<CreditBook::Hold>> got) {
                    status_ = got.status();
                    if (got.ok()) hold = *std::move(got);
                  });
    credit_.Answer();
    return hold;
  }
  v1::Recall RecallOf(const Id16& party, const Id16& key = {}) {
    v1::Recall recall;
    recall.add_purses()->set_party_id(party.ToBytes());
    if (!key.IsZero()) recall.mutable_purses(0)->set_key_id(key.ToBytes());
    return recall;
  }

  std::shared_ptr<CreditBook> book_;
  absl::Status status_;
};

TEST_F(ShortOfMoneyTest, RequestsHaveHoldsOfTheirOwnWithOneExtension) {
  auto hold = Obtain();
  ASSERT_NE(hold, nullptr);
  EXPECT_TRUE(hold->reserved());
  EXPECT_EQ(hold->held_micro(), 300);
  auto second = Obtain();
  EXPECT_THAT(credit_.log(), ElementsAre("reserve 500", "reserve 500")) << "no slice is asked for for a while";
  EXPECT_EQ(book_->reserved_total(), 2);
}

TEST_F(ShortOfMoneyTest, GrowthIsAskedForOneExtensionAhead) {
  auto hold = Obtain();
  int woken = 0;
  hold->OnGrown([&] { ++woken; });
  EXPECT_TRUE(hold->Extend(200)) << "held from the beginning";
  EXPECT_FALSE(hold->Extend(200)) << "on its way";
  credit_.Answer();
  EXPECT_EQ(woken, 1);
  EXPECT_EQ(credit_.log().back(), "extend 200");
  EXPECT_TRUE(hold->Extend(200));
  EXPECT_EQ(hold->held_micro(), 700);
  hold->Complete();
  credit_.Answer();
  EXPECT_TRUE(hold->Extend(200));
  EXPECT_EQ(credit_.Answer(), 0) << "complete: nothing is asked ahead";
}

TEST_F(ShortOfMoneyTest, AnExtensionThatIsRefusedIsAskedForAgainLater) {
  auto hold = Obtain(9'700, 200);
  ASSERT_NE(hold, nullptr);
  EXPECT_TRUE(hold->Extend(200));
  credit_.Answer();
  EXPECT_FALSE(hold->Extend(200));
  EXPECT_EQ(credit_.Answer(), 0) << "not with every frame";
  now_ += absl::Milliseconds(250);
  EXPECT_FALSE(hold->Extend(200));
  EXPECT_EQ(credit_.Answer(), 1);
}

TEST_F(ShortOfMoneyTest, AHoldOfWhichNothingWasServedIsVoidedUntilBillingKnows) {
  auto hold = Obtain();
  credit_.Fail(absl::UnavailableError("away"));
  hold.reset();
  credit_.Answer();
  EXPECT_EQ(book_->closing(), 1);
  credit_.Fail(absl::OkStatus());
  book_->Tick();
  credit_.Answer();
  EXPECT_EQ(book_->closing(), 0);
  EXPECT_EQ(credit_.available(), 10'000);
}

TEST_F(ShortOfMoneyTest, AHoldWhoseRecordBillingRefusesIsVoided) {
  auto hold = Obtain();
  const Id16 id = hold->credit();
  hold->Settle(100);
  book_->RecordRefused(id);
  credit_.Answer();
  EXPECT_EQ(credit_.holds(), 0U);
  EXPECT_EQ(credit_.available(), 10'000);
}

TEST_F(ShortOfMoneyTest, AReservationWhoseAnswerWasLostIsUndone) {
  ASSERT_NE(Obtain(), nullptr);
  credit_.Answer();
  credit_.Fail(absl::DeadlineExceededError("lost"), /*lost=*/true);
  EXPECT_EQ(Obtain(), nullptr);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status_));
  credit_.Fail(absl::OkStatus());
  book_->Tick();
  credit_.Answer();
  EXPECT_EQ(credit_.holds(), 0U);
}

TEST_F(ShortOfMoneyTest, MoneyThatIsGoneIsARefusal) {
  EXPECT_EQ(Obtain(10'000, 1), nullptr);
  EXPECT_TRUE(absl::IsFailedPrecondition(status_)) << status_;
}

TEST_F(ShortOfMoneyTest, ARecallBringsBackWhatRunningRequestsDoNotHold) {
  credit_.set_reserve(false);
  ASSERT_TRUE(Refill(*book_, 10).ok());
  auto running = book_->Draw(kTenant, 300, 100);
  bool done = false;
  book_->Recall(RecallOf(kTenant), [&] { done = true; });
  EXPECT_FALSE(done) << "billing has not got it yet";
  credit_.Answer();
  EXPECT_TRUE(done);
  EXPECT_EQ(credit_.available(), 10'000 - 400) << "300 and room for an extension stay";
  EXPECT_EQ(book_->Draw(kTenant, 1, 0), nullptr);
  EXPECT_TRUE(running->Extend(100));
  const Id16 slice = running->credit();
  running->Settle(150);
  credit_.Answer();
  EXPECT_EQ(credit_.available(), 10'000 - 150) << "the rest comes when the request has ended";
  book_->RecordAcked(slice);
  credit_.Answer();
  EXPECT_EQ(book_->open_slices(), 0);
}

TEST_F(ShortOfMoneyTest, ARecallWaitsForRecordsOfRequestsThatHaveEnded) {
  auto hold = Obtain();
  const Id16 id = hold->credit();
  hold->Settle(10);
  bool done = false;
  book_->Recall(RecallOf(kTenant), [&] { done = true; });
  credit_.Answer();
  EXPECT_FALSE(done);
  book_->RecordAcked(id);
  EXPECT_TRUE(done);
  bool stuck = false;
  hold = Obtain();
  hold->Settle(10);
  book_->Recall(RecallOf(kTenant), [&] { stuck = true; });
  now_ += absl::Seconds(2);
  book_->Tick();
  EXPECT_TRUE(stuck) << "a record that does not come through is not free money";
}

TEST_F(ShortOfMoneyTest, ASliceThatWasOnItsWayGoesStraightBack) {
  credit_.set_reserve(false);
  book_->Refill(kTenant, 10, [](const absl::Status&) {});
  bool done = false;
  book_->Recall(RecallOf(kTenant), [&] { done = true; });
  EXPECT_FALSE(done);
  credit_.Answer();
  EXPECT_TRUE(done);
  EXPECT_EQ(credit_.available(), 10'000);
  EXPECT_EQ(book_->Draw(kTenant, 1, 0), nullptr);
}

TEST_F(ShortOfMoneyTest, TheBudgetOfAKeyIsAPurseOfItsOwn) {
  credit_.set_reserve(false);
  const Id16 key = NewTimeOrderedId();
  const Purse keyed(kTenant, key);
  for (const Purse& purse : {Purse(kTenant), keyed}) {
    book_->Refill(purse, 10, [](const absl::Status&) {});
    credit_.Answer();
  }
  EXPECT_THAT(credit_.log(), ElementsAre("grant 10..1000", "grant 10..1000 of a key"));
  EXPECT_NE(book_->Draw(keyed, 1000, 0), nullptr);
  book_->Recall(RecallOf(kTenant, key), [] {});
  credit_.Answer();
  EXPECT_EQ(book_->Draw(keyed, 1, 0), nullptr);
  EXPECT_NE(book_->Draw(kTenant, 1, 0), nullptr) << "another purse";
  book_->Recall(RecallOf(kTenant), [] {});
  EXPECT_EQ(book_->Draw(kTenant, 1, 0), nullptr) << "all of the party's";
}

// Many threads draw, extend, settle and drop; the sums must fit at every moment and in the end.
TEST_F(CreditBookTest, SumsFitUnderManyThreads) {
  constexpr int kThreads = 10;
  constexpr int kRounds = 3000;
  FakeCredit credit(2'000'000);
  credit.StartThread();
  CreditBook::Options options;
  options.slice_micro = 5000;
  options.monotonic = [] { return absl::Hours(1); };
  auto book = CreditBook::Create(std::move(options), &credit);
  std::atomic<int64_t> spent{0};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      for (int round = 0; round < kRounds; ++round) {
        const int64_t micro = 1 + static_cast<int64_t>(random() % 300);
        auto hold = book->Draw(kTenant, micro, 50);
        if (hold == nullptr) {
          std::atomic<bool> answered{false};
          book->Refill(kTenant, micro + 50, [&](const absl::Status&) { answered = true; });
          while (!answered) std::this_thread::yield();
          continue;
        }
        if (random() % 2 == 0) (void)hold->Extend(50);
        if (random() % 3 == 0) continue;  // dropped: nothing was delivered
        const int64_t cost = static_cast<int64_t>(random() % static_cast<uint64_t>(hold->held_micro() + 1));
        const Id16 slice = hold->credit();
        hold->Settle(cost);
        spent += cost;
        book->RecordAcked(slice);
      }
    });
  }
  std::thread watcher([&] {
    while (!stop) {
      const CreditBook::Totals totals = book->TotalsOf(kTenant);
      EXPECT_LE(totals.spent_micro + totals.held_micro + totals.returned_micro, totals.granted_micro);
      EXPECT_GE(totals.held_micro, 0);
      book->Tick();
    }
  });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  watcher.join();
  EXPECT_EQ(book->TotalsOf(kTenant).held_micro, 0);
  book->ReturnAll();
  credit.StopThread();
  EXPECT_EQ(book->open_slices(), 0);
  EXPECT_EQ(credit.open_slices(), 0);
  EXPECT_EQ(credit.available(), 2'000'000 - spent) << "not a micro-unit is lost or made";
}

// ---- slices of an earlier process ----

TEST_F(CreditBookTest, OrphansGoBackOnceTheirRecordsAreTaken) {
  const Id16 with_records = *Id16::FromHex("00000000000000000000000000000001");
  const Id16 without = *Id16::FromHex("00000000000000000000000000000002");
  for (const Id16& id : {with_records, without}) {
    v1::GrantSliceRequest request;
    request.set_slice_id(id.ToBytes());
    request.set_minimum_micro(10);
    request.set_wanted_micro(10);
    credit_.GrantSlice(request, [](const absl::StatusOr<v1::GrantSliceResponse>&) {});
  }
  credit_.Answer();
  auto orphans = OrphanSlices::Create({{with_records, 2}, {without, 0}}, &credit_, [this](const Id16&) { ++closed_; });
  credit_.Fail(absl::UnavailableError("away"));
  orphans->Tick();
  credit_.Answer();
  EXPECT_EQ(orphans->left(), 2);
  credit_.Fail(absl::OkStatus());
  orphans->Tick();
  credit_.Answer();
  EXPECT_EQ(orphans->left(), 1);
  orphans->RecordAcked(with_records);
  orphans->Tick();
  EXPECT_EQ(credit_.Answer(), 0) << "one record is still on its way";
  orphans->RecordAcked(with_records);
  orphans->Tick();
  credit_.Answer();
  EXPECT_EQ(orphans->left(), 0);
  EXPECT_EQ(closed_, 2);
  EXPECT_EQ(credit_.open_slices(), 0);
}

}  // namespace
}  // namespace gantry::gateway
