#include "gateway/metering/usage_journal.h"

#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gantry::gateway {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

class UsageJournalTest : public ::testing::Test {
 protected:
  void Open() {
    orphans_.clear();
    journal_.reset();
    auto journal = UsageJournal::Open(&files_, options_, &orphans_);
    ASSERT_TRUE(journal.ok()) << journal.status();
    journal_ = *std::move(journal);
  }
  // The process is gone, and the power with it.
  void Crash() {
    files_.FailFrom(1, absl::UnavailableError("gone"));
    entries_.clear();
    journal_.reset();
    files_.Heal();
    files_.LosePower();
  }
  UsageJournal::Entry* Begin(char name) {
    v1::UsageRecord opening;
    opening.set_request_id(std::string(16, name));
    opening.set_party_id(std::string(16, 'p'));
    opening.set_key_id(std::string(16, 'k'));
    opening.set_hold_id(std::string(16, 'h'));
    opening.set_slice_id(slice_.ToBytes());
    opening.set_model("demo");
    opening.set_plan_version_id(std::string(16, 'v'));
    opening.set_held_micro(77);
    auto entry = journal_->Begin(std::move(opening));
    if (!entry.ok()) return nullptr;
    entries_.push_back(*std::move(entry));
    return entries_.back().get();
  }
  static v1::UsageRecord Final(uint64_t output) {
    v1::UsageRecord record;
    record.set_outcome(v1::USAGE_OUTCOME_COMPLETED);
    record.set_prompt_tokens(10);
    record.set_output_tokens(output);
    record.set_held_micro(77);
    return record;
  }
  static absl::Status Finish(UsageJournal::Entry* entry, v1::UsageRecord record) {
    std::promise<absl::Status> done;
    entry->Finish(std::move(record), [&](const absl::Status& status) { done.set_value(status); });
    return done.get_future().get();
  }
  // "a 3": the letter of the request and the output, of everything that waits for billing.
  std::vector<std::string> Waiting() {
    std::vector<std::string> out;
    for (const v1::UsageRecord& record : journal_->NextBatch(512)) {
      out.push_back(absl::StrCat(record.request_id().substr(0, 1), " ", record.output_tokens(), " ",
                                 v1::UsageOutcome_Name(record.outcome()).substr(14)));
    }
    journal_->Requeue();
    return out;
  }
  void AckAll() {
    for (const v1::UsageRecord& record : journal_->NextBatch(512)) journal_->Acked(record.record_id());
  }

  const Id16 slice_ = *Id16::FromHex("000000000000000000000000000000cc");
  FaultyFileSystem files_;
  SpoolOptions options_{.directory = "/spool"};
  std::vector<UsageJournal::Slice> orphans_;
  std::shared_ptr<UsageJournal> journal_;
  std::vector<std::unique_ptr<UsageJournal::Entry>> entries_;
};

TEST_F(UsageJournalTest, AFinishedRequestIsDeliveredUntilItIsAcked) {
  Open();
  std::vector<Id16> acked;
  journal_->OnAcked([&](const Id16& slice, bool) { acked.push_back(slice); });
  int ready = 0;
  journal_->OnReady([&] { ++ready; });
  EXPECT_TRUE(Finish(Begin('a'), Final(3)).ok());
  EXPECT_EQ(ready, 1);
  std::vector<v1::UsageRecord> batch = journal_->NextBatch(512);
  ASSERT_THAT(batch, SizeIs(1));
  EXPECT_EQ(batch[0].party_id(), std::string(16, 'p'));
  EXPECT_EQ(batch[0].slice_id(), slice_.ToBytes());
  EXPECT_EQ(batch[0].model(), "demo");
  EXPECT_EQ(batch[0].record_id().size(), 16U);
  EXPECT_THAT(journal_->NextBatch(512), IsEmpty()) << "it is on its way";
  journal_->Requeue();
  EXPECT_THAT(journal_->NextBatch(512), SizeIs(1)) << "the stream broke: once more";
  journal_->Acked(batch[0].record_id());
  EXPECT_EQ(journal_->pending(), 0U);
  EXPECT_EQ(acked, std::vector<Id16>{slice_});
}

TEST_F(UsageJournalTest, ARejectedRecordIsNotSentAgain) {
  Open();
  ASSERT_TRUE(Finish(Begin('a'), Final(3)).ok());
  journal_->Rejected(journal_->NextBatch(1)[0].record_id(), "no such party");
  EXPECT_EQ(journal_->pending(), 0U);
}

TEST_F(UsageJournalTest, AnEntryThatIsDroppedIsARequestThatFailed) {
  Open();
  Begin('a');
  entries_.clear();
  while (journal_->pending() == 0) std::this_thread::yield();
  EXPECT_THAT(Waiting(), testing::ElementsAre("a 0 FAILED"));
}

TEST_F(UsageJournalTest, WhatWasAnsweredSurvivesPowerLoss) {
  Open();
  ASSERT_TRUE(Finish(Begin('a'), Final(3)).ok());
  ASSERT_TRUE(Finish(Begin('b'), Final(4)).ok());
  const std::string id = journal_->NextBatch(1)[0].record_id();
  Crash();
  Open();
  EXPECT_THAT(Waiting(), testing::UnorderedElementsAre("a 3 COMPLETED", "b 4 COMPLETED"));
  EXPECT_EQ(journal_->NextBatch(1)[0].record_id(), id) << "the same ids: billing counts them once";
}

TEST_F(UsageJournalTest, WhatBillingHasIsForgotten) {
  options_.segment_bytes = 256;
  Open();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Finish(Begin('a'), Final(3)).ok());
  AckAll();
  // The segment that is being written stays.
  ASSERT_TRUE(Finish(Begin('z'), Final(1)).ok());
  AckAll();
  const absl::Time limit = absl::Now() + absl::Seconds(5);
  while (journal_->Stats().segments > 1 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_LE(journal_->Stats().segments, 1);
}

TEST_F(UsageJournalTest, ARequestThatRanAtTheCrashIsClosedAtItsLastProgress) {
  Open();
  UsageJournal::Entry* entry = Begin('a');
  UsageJournal::Entry* never = Begin('b');
  ASSERT_NE(never, nullptr);
  entry->Progress(10, 4, 63);
  entry->Progress(10, 4, 64);
  entry->Progress(10, 4, 100);                     // less than 64 tokens and 250 ms later: not written
  ASSERT_TRUE(Finish(Begin('c'), Final(1)).ok());  // shares the spool's commits: what came before is on disk
  Crash();
  Open();
  EXPECT_THAT(Waiting(), testing::UnorderedElementsAre("a 64 GATEWAY_LOST", "b 0 GATEWAY_LOST", "c 1 COMPLETED"));
  for (const v1::UsageRecord& record : journal_->NextBatch(512)) {
    if (record.request_id()[0] != 'a') continue;
    EXPECT_EQ(record.prompt_tokens(), 10U);
    EXPECT_EQ(record.cached_tokens(), 4U);
  }
}

TEST_F(UsageJournalTest, ProgressIsWrittenEvery64TokensOrQuarterSecond) {
  Open();
  UsageJournal::Entry* entry = Begin('a');
  const auto written = [&] { return journal_->Stats().records; };
  const uint64_t before = written();
  for (uint64_t tokens = 1; tokens <= 640; ++tokens) entry->Progress(10, 0, tokens);
  EXPECT_EQ(written() - before, 10U);
  absl::SleepFor(absl::Milliseconds(260));
  entry->Progress(10, 0, 641);
  EXPECT_EQ(written() - before, 11U);
}

TEST_F(UsageJournalTest, ACrashDuringRecoveryLosesNothing) {
  Open();
  Begin('a')->Progress(10, 0, 64);
  ASSERT_TRUE(Finish(Begin('b'), Final(2)).ok());
  Crash();
  for (int operations = 1; operations < 12; ++operations) {
    files_.FailFrom(operations, absl::UnavailableError("crash"));
    std::vector<UsageJournal::Slice> orphans;
    { auto journal = UsageJournal::Open(&files_, options_, &orphans); }
    files_.Heal();
    files_.LosePower();
  }
  Open();
  EXPECT_THAT(Waiting(), testing::UnorderedElementsAre("a 64 GATEWAY_LOST", "b 2 COMPLETED"));
}

TEST_F(UsageJournalTest, SlicesOfADeadProcessComeBackWithTheirOpenRecords) {
  Open();
  const Id16 closed = *Id16::FromHex("000000000000000000000000000000dd");
  ASSERT_TRUE(journal_->SliceGranted({.id = slice_, .party = closed, .granted_micro = 500}).ok());
  ASSERT_TRUE(journal_->SliceGranted({.id = closed, .party = closed, .granted_micro = 600}).ok());
  journal_->SliceClosed(closed);
  ASSERT_TRUE(Finish(Begin('a'), Final(3)).ok());
  ASSERT_TRUE(Finish(Begin('b'), Final(3)).ok());
  Crash();
  Open();
  ASSERT_THAT(orphans_, SizeIs(1));
  EXPECT_EQ(orphans_[0].id, slice_);
  EXPECT_EQ(orphans_[0].granted_micro, 500);
  EXPECT_EQ(orphans_[0].records, 2U);
  journal_->SliceClosed(slice_);
  AckAll();
  journal_.reset();
  Open();
  EXPECT_THAT(orphans_, IsEmpty());
  // Acks are not on disk: what shares a segment with the living is sent again, under the same id.
  EXPECT_EQ(journal_->pending(), 2U);
}

TEST_F(UsageJournalTest, ARecordThatCannotBeWrittenIsAnErrorAndIsNotSent) {
  Open();
  UsageJournal::Entry* entry = Begin('a');
  files_.FailFrom(1, absl::ResourceExhaustedError("disk full"));
  EXPECT_FALSE(Finish(entry, Final(3)).ok());
  EXPECT_EQ(journal_->pending(), 0U);
  EXPECT_EQ(Begin('b'), nullptr) << "no new request while it fails (R4)";
}

TEST_F(UsageJournalTest, AFullSpoolRefusesRequestsButTakesTheEndOfThoseItHas) {
  options_.total_bytes = 8000;
  Open();
  std::vector<UsageJournal::Entry*> running;
  while (UsageJournal::Entry* entry = Begin('a')) running.push_back(entry);
  ASSERT_GE(running.size(), 2U);
  for (UsageJournal::Entry* entry : running) {
    entry->Progress(10, 0, 64);  // dropped: costs precision after a crash, never the stream
    EXPECT_TRUE(Finish(entry, Final(3)).ok());
  }
}

TEST_F(UsageJournalTest, ManyRequestsAtOnce) {
  Open();
  std::atomic<int> finished{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        v1::UsageRecord opening;
        opening.set_request_id(NewTimeOrderedId().ToBytes());
        opening.set_slice_id(slice_.ToBytes());
        auto entry = journal_->Begin(std::move(opening));
        ASSERT_TRUE(entry.ok());
        (*entry)->Progress(1, 0, 70);
        if (Finish(entry->get(), Final(80)).ok()) ++finished;
      }
    });
  }
  std::thread sender([&] {
    size_t taken = 0;
    while (taken < 400) {
      for (const v1::UsageRecord& record : journal_->NextBatch(64)) {
        journal_->Acked(record.record_id());
        ++taken;
      }
    }
  });
  for (std::thread& thread : threads) thread.join();
  sender.join();
  EXPECT_EQ(finished, 400);
  EXPECT_EQ(journal_->pending(), 0U);
}

}  // namespace
}  // namespace gantry::gateway
