// What a signed checkpoint vouches for, and what came since.
#include "billing/audit/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "billing/receipt/receipt_store.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

using testing::HasSubstr;

class Checkpoints : public testing::Test {
 protected:
  Checkpoints() {
    ring_ = *ReceiptKeyRing::Open(books_.dir() + "/receipt.keys");
    books_.Do([&](Database& db) { return AddReceiptKey(db, ring_.get(), 1, books_.now_us()).status(); });
    slice_ = books_.Slice(5'000'000);
    Use();
    Use();
    Make();
  }
  void Use() {
    const v1::UsageRecord record = books_.Record(slice_, 1234, 567);
    books_.Append(record);
    books_.Append(books_.Witness(record, 567));
  }
  void Make() {
    books_.Do([&](Database& db) {
      Checkpoint end = EndOfBooks(db);
      end.made_us = books_.now_us();
      return RecordCheckpoint(db, *ring_, end, RecordedSums(db));
    });
  }
  // What the last checkpoint and the tail after it say: "ok", or what is wrong.
  std::string Look() {
    std::string says;
    books_.Do([&](Database& db) -> absl::Status {
      absl::StatusOr<std::optional<Checkpoint>> last = LastCheckpoint(db, *ring_);
      if (!last.ok()) {
        says = last.status().ToString();
        return absl::OkStatus();
      }
      rows_ = TailRows(db, **last);
      const AuditResult audit = AuditTail(db, **last);
      says = "ok";
      for (const Finding& finding : audit.findings) {
        says = absl::StrCat(says == "ok" ? "" : says + "; ", finding.row, ": ", finding.detail);
      }
      return absl::OkStatus();
    });
    return says;
  }

  Books books_;
  std::unique_ptr<ReceiptKeyRing> ring_;
  Id16 slice_;
  int64_t rows_ = 0;
};

TEST_F(Checkpoints, OnlyWhatCameSinceIsReadAgain) {
  EXPECT_EQ(Look(), "ok");
  EXPECT_EQ(rows_, 0);
  Use();
  EXPECT_EQ(Look(), "ok");
  EXPECT_EQ(rows_, 2) << "an event and its transfer";
  Make();
  EXPECT_EQ(Look(), "ok");
  EXPECT_EQ(rows_, 0);
}

TEST_F(Checkpoints, WhatChangedSinceIsNamed) {
  Use();
  struct Case {
    const char* sql;
    const char* says;
  };
  for (const Case& c : std::vector<Case>{
           {"UPDATE usage_event SET output_tokens = 1 WHERE seq = 3", "usage_event 3: is not what was written"},
           {"UPDATE transfer SET amount_micro = 1 WHERE seq = 4", "transfer 4: is not what was written"},
           {"UPDATE account SET credit_micro = credit_micro + 1 WHERE type = 'customer'", "account 1: debits"},
           {"UPDATE account SET held_micro = held_micro + 1 WHERE type = 'customer'", "account 1: demo: held"},
           {"DELETE FROM usage_event WHERE seq = 2", "usage_event 2: is not what it was at the last checkpoint"},
           {"UPDATE transfer SET hash = zeroblob(32) WHERE seq = 3", "transfer 3: is not what it was"}}) {
    books_.Do([&](Database& db) -> absl::Status {
      for (const char* table : {"usage", "transfer"}) {
        for (const char* end : {"_immutable", "_kept"})
          db.Script(absl::StrCat("DROP TRIGGER IF EXISTS ", table, end).c_str());
      }
      return absl::OkStatus();
    });
    std::string says;
    // Undone by its error.
    books_.store()
        .WriteAndWait([&](Database& db) -> absl::Status {
          db.Script("PRAGMA defer_foreign_keys = ON");
          db.QueryText(c.sql).Next();
          absl::StatusOr<std::optional<Checkpoint>> last = LastCheckpoint(db, *ring_);
          if (!last.ok()) return last.status();
          for (const Finding& finding : AuditTail(db, **last).findings) {
            absl::StrAppend(&says, finding.row, ": ", finding.detail, "\n");
          }
          return absl::CancelledError("undo");
        })
        .IgnoreError();
    EXPECT_THAT(says, HasSubstr(c.says)) << c.sql;
  }
}

TEST_F(Checkpoints, AForgedOneIsNoCheckpoint) {
  books_.Tamper("UPDATE audit_account SET credit_micro = credit_micro + 1");
  EXPECT_THAT(Look(), HasSubstr("DATA_LOSS: audit_checkpoint 1: sums of accounts or books are not those"));
  Make();
  EXPECT_EQ(Look(), "ok");
  books_.Tamper("UPDATE audit_checkpoint SET body = replace(body, '\"2\"', '\"1\"') WHERE checkpoint_no = 2");
  EXPECT_THAT(Look(), HasSubstr("DATA_LOSS: audit_checkpoint 2: its signature does not hold"));
}

TEST_F(Checkpoints, OneOfAnotherKeyIsNoneOfOurs) {
  ring_ = *ReceiptKeyRing::Open(books_.dir() + "/other.keys");
  EXPECT_THAT(Look(), HasSubstr("FAILED_PRECONDITION: audit_checkpoint 1 was signed with key"));
}

}  // namespace
}  // namespace gantry::billing
