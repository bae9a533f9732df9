// Audits that billing makes by itself: at start, every minute, of everything.
#include "billing/service/auditor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "billing/parties/parking.h"
#include "billing/receipt/receipt_store.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

using testing::HasSubstr;

class AuditorTest : public testing::Test {
 protected:
  AuditorTest() {
    ring_ = *ReceiptKeyRing::Open(books_.dir() + "/receipt.keys");
    books_.Do([&](Database& db) { return AddReceiptKey(db, ring_.get(), 1, books_.now_us()).status(); });
    books_.NewTenant("other", 1'000'000);
    slice_ = books_.Slice(5'000'000);
    for (int i = 0; i < 3; ++i) Use();
  }
  void Use() {
    const v1::UsageRecord record = books_.Record(slice_, 1234, 567);
    books_.Append(record);
    books_.Append(books_.Witness(record, 567));
  }
  std::unique_ptr<Auditor> Start(int64_t start_rows_max = 1000, int64_t direct_bytes_max = 1 << 30) {
    return Auditor::Start({.store = &books_.store(),
                           .ring = ring_.get(),
                           .path = books_.path(),
                           .clock = [this] { return books_.now_us(); },
                           .tail_every = absl::Hours(1),
                           .first_full_after = absl::Hours(1),
                           .start_rows_max = start_rows_max,
                           .direct_bytes_max = direct_bytes_max});
  }
  // "demo: its first finding" of whoever is parked.
  std::string Parked() {
    std::string parked;
    books_.Do([&](Database& db) {
      for (const ParkedParty& party : ParkedParties(db)) parked += party.name + ": " + party.reason + "\n";
      return absl::OkStatus();
    });
    return parked;
  }

  Books books_;
  std::unique_ptr<ReceiptKeyRing> ring_;
  Id16 slice_;
};

TEST_F(AuditorTest, MakesCheckpointsOfBooksThatHold) {
  auto auditor = Start();
  EXPECT_EQ(auditor->State().checkpoint_event_seq, 3) << "at start";
  Use();
  auditor->AuditTailNow();
  EXPECT_EQ(auditor->State().checkpoint_event_seq, 4);
  auditor->AuditTailNow();
  EXPECT_EQ(books_.Int("SELECT count(*) FROM audit_checkpoint"), 2) << "nothing new, nothing written";
  auditor->AuditEverythingNow();
  EXPECT_TRUE(auditor->State().full_ok);
  EXPECT_EQ(books_.Int("SELECT sum(complete) FROM audit_checkpoint"), 1);
  EXPECT_EQ(Parked(), "");
}

TEST_F(AuditorTest, AStartParksWhoseTailIsWrongAndServesOthers) {
  Start().reset();
  Use();
  books_.Tamper("UPDATE usage_event SET output_tokens = 1 WHERE seq = 4");
  EXPECT_EQ(Start()->State().parked, 1);
  EXPECT_THAT(Parked(), HasSubstr("demo: usage_event 4: is not what was written"));
  EXPECT_TRUE(books_.Slice(1000).IsZero());
}

TEST_F(AuditorTest, ALongTailIsLeftToTheBackground) {
  auto auditor = Start(/*start_rows_max=*/2);
  EXPECT_EQ(auditor->State().checkpoint_us, 0);
  auditor->AuditTailNow();
  EXPECT_EQ(auditor->State().checkpoint_event_seq, 3);
}

TEST_F(AuditorTest, WhatChangedBeforeTheCheckpointIsFoundByTheAuditOfEverything) {
  Start().reset();
  books_.Tamper("UPDATE credit_lot SET priority = 5 WHERE lot_no = 1");
  auto auditor = Start();
  EXPECT_EQ(Parked(), "");
  auditor->AuditEverythingNow();
  EXPECT_FALSE(auditor->State().full_ok);
  EXPECT_EQ(auditor->State().parked, 1);
  EXPECT_EQ(Parked(), "demo: credit_lot 1: not what it was when it was sealed\n");
}

TEST_F(AuditorTest, WhatWasAcceptedDoesNotParkAgain) {
  books_.Tamper("UPDATE credit_lot SET priority = 5 WHERE lot_no = 1");
  auto auditor = Start();
  auditor->AuditEverythingNow();
  EXPECT_NE(Parked(), "");
  books_.Do([](Database& db) { return Unpark(db, "demo"); });
  auditor->AuditEverythingNow();
  EXPECT_EQ(Parked(), "");
  EXPECT_GT(auditor->State().checkpoint_us, 0) << "what was accepted is vouched for";
  auditor.reset();
  books_.Tamper("UPDATE credit_lot SET expires_us = 5 WHERE lot_no = 2");
  Start()->AuditEverythingNow();
  EXPECT_EQ(Parked(), "other: credit_lot 2: not what it was when it was sealed\n") << "something else does";
}

TEST_F(AuditorTest, WhatWasAcceptedOfASumIsAcceptedWhenTheSumHasGrown) {
  for (const char* change : {"UPDATE account SET credit_micro = credit_micro + 7 WHERE account_no = 1",
                             "UPDATE account SET held_micro = held_micro - 7 WHERE account_no = 1",
                             "UPDATE account SET residue_pico = residue_pico + 7 WHERE account_no = 1",
                             "UPDATE usage_rollup SET quantity = quantity + 7"}) {
    SCOPED_TRACE(change);
    books_.Tamper(change);
    books_.Reopen();
    auto auditor = Start();
    auditor->AuditEverythingNow();
    EXPECT_THAT(Parked(), HasSubstr("demo: "));
    EXPECT_THAT(Parked(), HasSubstr(" 7 "));
    books_.Do([](Database& db) { return Unpark(db, "demo"); });
    Use();
    auditor->AuditEverythingNow();
    EXPECT_EQ(Parked(), "");
    auditor->AuditTailNow();
    EXPECT_EQ(Parked(), "");
  }
}

TEST_F(AuditorTest, AFindingAboutNobodyParksNobodyAndIsTold) {
  books_.Do([](Database& db) -> absl::Status {
    db.Execute(
        "INSERT INTO audit_log (seq, at_us, actor, action, object, detail, hash) "
        "VALUES (1, 0, 'admin', 'x', '', '', zeroblob(32))");
    return absl::OkStatus();
  });
  auto auditor = Start();
  EXPECT_EQ(auditor->State().parked, 0);
  EXPECT_THAT(auditor->State().trouble, HasSubstr("audit log chain: audit_log 1: is not what was written"));
  EXPECT_EQ(auditor->State().checkpoint_us, 0);
}

TEST_F(AuditorTest, ALimitThatWasLoweredBelowWhatIsHeldParksNobody) {
  const auto limit = [&](int64_t micro) {
    books_.Do([&](Database& db) -> absl::Status {
      db.Execute("UPDATE party SET credit_limit_micro = ? WHERE name = 'demo'", micro);
      return absl::OkStatus();
    });
  };
  limit(20'000'000);
  ASSERT_FALSE(books_.Slice(12'000'000).IsZero());
  limit(0);
  auto auditor = Start();
  auditor->AuditEverythingNow();
  EXPECT_EQ(Parked(), "");
  EXPECT_THAT(auditor->State().trouble, HasSubstr("no overdraft: account 1: demo: available"));
}

TEST_F(AuditorTest, LargeBooksAreAuditedOnACopy) {
  auto auditor = Start(1000, /*direct_bytes_max=*/0);
  auditor->AuditEverythingNow();
  EXPECT_TRUE(auditor->State().full_ok) << auditor->State().trouble;
  for (const auto& entry : std::filesystem::directory_iterator(books_.dir())) {
    EXPECT_THAT(entry.path().string(), testing::Not(HasSubstr(".audit")));
  }
}

TEST_F(AuditorTest, AForgedCheckpointIsTroubleUntilEverythingWasAudited) {
  Start().reset();
  books_.Tamper("UPDATE audit_checkpoint SET body = replace(body, '\"3\"', '\"2\"')");
  auto auditor = Start();
  EXPECT_THAT(auditor->State().trouble, HasSubstr("its signature does not hold"));
  auditor->AuditEverythingNow();
  auditor->AuditTailNow();
  EXPECT_EQ(auditor->State().trouble, "");
}

}  // namespace
}  // namespace gantry::billing
