#include "billing/usage/witness_match.h"

#include <gtest/gtest.h>

#include "billing/testing/books.h"

// Every branch of R10 by name.
namespace gantry::billing {
namespace {

constexpr auto kCompleted = v1::USAGE_OUTCOME_COMPLETED;
constexpr auto kStopped = v1::USAGE_OUTCOME_STOPPED;
constexpr auto kAborted = v1::USAGE_OUTCOME_ABORTED;
constexpr auto kFailed = v1::USAGE_OUTCOME_FAILED;
constexpr auto kGatewayLost = v1::USAGE_OUTCOME_GATEWAY_LOST;

TEST(Witnesses, MeetInAnyOrder) {
  struct Case {
    v1::UsageOutcome outcome;
    uint64_t delivered, generated;
    const char* state;
  };
  for (const Case& c : {Case{kCompleted, 50, 50, "agreed"}, Case{kCompleted, 50, 51, "quarantined"},
                        Case{kCompleted, 51, 50, "quarantined"}, Case{kStopped, 50, 52, "agreed"},
                        Case{kStopped, 50, 50, "agreed"}, Case{kStopped, 53, 52, "quarantined"},
                        Case{kAborted, 10, 200, "agreed"}, Case{kAborted, 201, 200, "quarantined"},
                        Case{kGatewayLost, 64, 90, "agreed"}, Case{kGatewayLost, 91, 90, "quarantined"}}) {
    for (bool worker_first : {false, true}) {
      Books books;
      v1::UsageRecord record = books.Record(books.Slice(1'000'000), 100, c.delivered, c.outcome);
      v1::WitnessRecord witness = books.Witness(record, c.generated);
      if (worker_first) {
        books.Append(witness);
      } else {
        books.Append(record);
      }
      EXPECT_EQ(books.MatchState(record), "waiting");
      EXPECT_EQ(books.Audited().open_items(), 1u);
      if (worker_first) {
        books.Append(record);
      } else {
        books.Append(witness);
      }
      EXPECT_EQ(books.MatchState(record), c.state) << c.outcome << " " << c.delivered << " " << c.generated;
      EXPECT_EQ(books.Audited().open_items(), 0u);
      EXPECT_EQ(books.Audited().ok(), std::string(c.state) == "agreed");
    }
  }
}

TEST(Witnesses, PromptCountsMustBeEqualToo) {
  Books books;
  v1::UsageRecord record = books.Record(books.Slice(1'000'000), 100, 50);
  v1::WitnessRecord witness = books.Witness(record, 50);
  witness.set_prompt_tokens(99);
  books.Append(record);
  books.Append(witness);
  EXPECT_EQ(books.MatchState(record), "quarantined");
}

TEST(Witnesses, EverySequenceNeedsItsOwn) {
  Books books;
  v1::UsageRecord record = books.Record(books.Slice(1'000'000), 100, 90);
  record.mutable_sequences(0)->set_output_tokens(40);
  v1::SequenceUsage* second = record.add_sequences();
  second->set_sequence(1);
  second->set_attempts(1);
  second->set_output_tokens(50);
  books.Append(record);
  books.Append(books.Witness(record, 40));
  EXPECT_EQ(books.MatchState(record), "waiting");
  v1::WitnessRecord witness = books.Witness(record, 50);
  witness.set_sequence(1);
  books.Append(witness);
  EXPECT_EQ(books.MatchState(record), "agreed");
}

TEST(Witnesses, SegmentsOfSeveralAttemptsTile) {
  Books books;
  v1::UsageRecord record = books.Record(books.Slice(1'000'000), 100, 90);
  books.Append(record);
  v1::WitnessRecord tail = books.Witness(record, 90);
  tail.set_attempt(2);
  tail.set_from_index(60);
  books.Append(tail);
  EXPECT_EQ(books.MatchState(record), "waiting") << "0..60 is missing";
  v1::WitnessRecord head = books.Witness(record, 64);
  books.Append(head);
  EXPECT_EQ(books.MatchState(record), "agreed") << "0..64 and 60..90 cover 90";
}

TEST(Witnesses, OneAloneIsFlaggedAfterTheDeadlineAndWeighedWhenItsTwinComes) {
  Books books;
  v1::UsageRecord delivered = books.Record(books.Slice(1'000'000), 100, 50);
  v1::UsageRecord generated = books.Record(books.Slice(1'000'000), 100, 60);
  books.Append(delivered);
  books.Append(books.Witness(generated, 60));
  books.Advance(1'000'000);
  books.Do([&](Database& db) { return ExpireWaiting(db, books.now_us() - 2'000'000, books.now_us()); });
  EXPECT_EQ(books.MatchState(delivered), "waiting");
  books.Do([&](Database& db) { return ExpireWaiting(db, books.now_us(), books.now_us()); });
  EXPECT_EQ(books.MatchState(delivered), "w1_only");
  EXPECT_EQ(books.MatchState(generated), "w2_only");
  EXPECT_EQ(books.Int("SELECT count(*) FROM transfer WHERE kind = 3"), 1) << "generated alone bills nothing";
  EXPECT_TRUE(books.Audited().ok());
  books.Append(books.Witness(delivered, 50));
  books.Append(generated);
  EXPECT_EQ(books.MatchState(delivered), "agreed");
  EXPECT_EQ(books.MatchState(generated), "agreed");
}

TEST(Witnesses, WhatOnlyTheWorkerCountedIsALossOfTheHouse) {
  Books books;
  const v1::UsageRecord record = books.Record(books.Slice(1'000'000), 1000, 500, kGatewayLost);
  v1::WitnessRecord witness = books.Witness(record, 1000);
  witness.set_party_id(books.tenant().ToBytes());
  books.Append(witness);
  books.Do([&](Database& db) { return ExpireWaiting(db, books.now_us(), books.now_us()); });
  EXPECT_EQ(books.MatchState(record), "w2_only");
  EXPECT_EQ(books.Int("SELECT debit_micro FROM account WHERE type = 'unbilled_loss'"), 1000);  // 200 + 800
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000);
  EXPECT_EQ(books.Int("SELECT count(*) FROM rating"), 0) << "nobody is charged";
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();

  // The gateway comes back and closes it at its last progress: min(generated, progress) is billed, the loss taken back.
  ASSERT_EQ(books.Append(record).record_ids_size(), 1);
  EXPECT_EQ(books.MatchState(record), "agreed");
  EXPECT_EQ(books.Int("SELECT debit_micro - credit_micro FROM account WHERE type = 'unbilled_loss'"), 0);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 600);
  EXPECT_TRUE(books.Audited().ok()) << books.Audited().DebugString();
  EXPECT_EQ(books.Append(record).record_ids_size(), 1) << "a repeat";
  EXPECT_EQ(books.Int("SELECT count(*) FROM usage_event"), 2);
}

TEST(Witnesses, RefusedRequestsNeedNone) {
  Books books;
  v1::UsageRecord record = books.Record(books.Slice(1'000'000), 100, 0, kFailed);
  books.Append(record);
  EXPECT_EQ(books.MatchState(record), "agreed");
}

}  // namespace
}  // namespace gantry::billing
