// Books from before rows were sealed: the steps of the schema seal what is there, as it stands, and write down what
// promotional credit had been used.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "billing/audit/checks.h"
#include "billing/store/schema.h"
#include "billing/store/store.h"

namespace gantry::billing {
namespace {

constexpr char kRows[] = R"sql(
  INSERT INTO party (party_id, kind, name, legal_name, currency, status, parent_no, depth, credit_limit_micro, time_zone,
    created_us) VALUES (randomblob(16), 1, 'house', '', 'EUR', 1, NULL, 0, 0, 'UTC', 1),
    (randomblob(16), 3, 'demo', '', 'EUR', 1, 1, 1, 0, 'UTC', 1);
  INSERT INTO gateway (gateway_id, epoch, since_us) VALUES (randomblob(16), 1, 1);
  INSERT INTO account (party_no, type, currency, credit_micro) VALUES (2, 'customer', 'EUR', 5), (1, 'cash', 'EUR', 0);
  UPDATE account SET debit_micro = 5 WHERE account_no = 2;
  INSERT INTO transfer (debit_account, credit_account, amount_micro, kind, source, reference, booked_us, hash)
    VALUES (2, 1, 5, 1, 0, '', 1, zeroblob(32));
  INSERT INTO credit_lot (account_no, kind, priority, amount_micro, left_micro, granted_us, expires_us, transfer_seq)
    VALUES (1, 2, 0, 5, 5, 1, 9, 1);
  -- Of a gift of 7, 2 have expired; so usage has taken 5, nobody knows which.
  INSERT INTO transfer (debit_account, credit_account, amount_micro, kind, source, reference, booked_us, hash)
    VALUES (2, 1, 7, 2, 0, '', 1, zeroblob(32)), (1, 2, 2, 7, 2, '', 1, zeroblob(32));
  INSERT INTO credit_lot (account_no, kind, priority, amount_micro, left_micro, granted_us, expires_us, transfer_seq)
    VALUES (1, 1, 0, 7, 0, 1, 9, 2);
  INSERT INTO slice (slice_id, party_no, gateway_no, gateway_epoch, wanted_micro, minimum_micro, granted_micro, open,
    granted_us) VALUES (randomblob(16), 2, 1, 1, 9, 1, 9, 0, 1), (randomblob(16), 2, 1, 1, 9, 1, 9, 1, 1);
  INSERT INTO hold (hold_id, party_no, gateway_no, gateway_epoch, request_id, first_micro, held_micro, state, granted_us)
    VALUES (randomblob(16), 2, 1, 1, randomblob(16), 3, 3, 1, 1), (randomblob(16), 2, 1, 1, randomblob(16), 3, 3, 2, 1);
  INSERT INTO credit_hop (credit_id, party_no, granted_micro, open) VALUES (randomblob(16), 2, 4, 0);
  INSERT INTO model (name) VALUES ('m');
  INSERT INTO usage_event (seq, record_id, request_id, revision, party_no, key_no, model_no, outcome, prompt_tokens,
    cached_tokens, output_tokens, reasoning_tokens, requests, witnesses, ended_us, received_us, duration_ms,
    first_token_ms, drafted_tokens, accepted_tokens, device_us, hash)
    VALUES (3, randomblob(16), randomblob(16), 0, 2, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0, zeroblob(32));
  INSERT INTO worker (worker_id) VALUES (randomblob(16));
  INSERT INTO witness (record_id, request_id, party_no, worker_no, attempt, sequence, from_index, to_index, prompt_tokens,
    cached_tokens, recomputed_tokens, finish_reason, model_no, ended_us)
    VALUES (randomblob(16), randomblob(16), 2, 1, 1, 0, 0, 5, 5, 0, 0, 1, 1, 1);
)sql";

TEST(Seals, AreMadeOfWhatEarlierBooksHold) {
  char name[] = "/tmp/gantry-seals-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string dir = name;
  absl::Span<const Migration> before = Migrations();
  size_t step = 0;
  while (step < before.size() && std::string(before[step].name) != "0007_audit") ++step;
  ASSERT_LT(step, before.size());
  {
    auto store = Store::Open({.path = dir + "/gantry.db", .migrations = before.first(step)});
    ASSERT_TRUE(store.ok()) << store.status();
    absl::Status filled = (*store)->WriteAndWait([](Database& db) -> absl::Status {
      db.Script(kRows);
      return absl::OkStatus();
    });
    ASSERT_TRUE(filled.ok()) << filled;
  }
  auto store = Store::Open({.path = dir + "/gantry.db"});
  ASSERT_TRUE(store.ok()) << store.status();
  absl::Status looked = (*store)->ReadAndWait([](Database& db) -> absl::Status {
    Findings findings;
    CheckSeals(db, &findings);
    CheckWitnesses(db, &findings);
    CheckLots(db, &findings);
    const AuditResult result = findings.Take();
    EXPECT_TRUE(result.report.ok()) << result.report.DebugString();
    Rows rows = db.Query(
        "SELECT (SELECT count(seal) FROM hold), (SELECT count(seal) FROM slice), (SELECT count(seal) FROM witness)");
    EXPECT_TRUE(rows.Next());
    EXPECT_EQ(rows.Int(0), 1) << "of the hold that has ended";
    EXPECT_EQ(rows.Int(1), 1) << "of the slice that is closed";
    EXPECT_EQ(rows.Int(2), 1);
    Rows uses = db.Query("SELECT event_seq, account_no, lot_no, micro FROM lot_use");
    EXPECT_TRUE(uses.Next());
    EXPECT_EQ(uses.Int(0), -3) << "of any usage up to the last event";
    EXPECT_EQ(uses.Int(1), 1);
    EXPECT_EQ(uses.Int(2), 2);
    EXPECT_EQ(uses.Int(3), 5);
    EXPECT_FALSE(uses.Next());
    return absl::OkStatus();
  });
  EXPECT_TRUE(looked.ok()) << looked;
  store->reset();
  std::filesystem::remove_all(dir);
}

// Before posting_use was there, nobody wrote down what a lot gave to invoices.
TEST(Seals, WhatInvoicesTookOfGiftsUntilNowCountsAsDebtsPaid) {
  char name[] = "/tmp/gantry-seals-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string dir = name;
  const auto change = [&](const char* until, const char* sql) {
    absl::Span<const Migration> all = Migrations();
    size_t step = 0;
    while (step < all.size() && std::string(all[step].name) != until) ++step;
    auto store = Store::Open({.path = dir + "/gantry.db", .migrations = all.first(step)});
    ASSERT_TRUE(store.ok()) << store.status();
    const absl::Status changed = (*store)->WriteAndWait([&](Database& db) -> absl::Status {
      db.Script(sql);
      return absl::OkStatus();
    });
    ASSERT_TRUE(changed.ok()) << changed;
  };
  change("0007_audit", kRows);
  change("0013_posting_use", "UPDATE lot_use SET micro = 3, seal = gantry_row_hash(event_seq, account_no, lot_no, 3)");
  auto store = Store::Open({.path = dir + "/gantry.db"});
  ASSERT_TRUE(store.ok()) << store.status();
  absl::Status looked = (*store)->ReadAndWait([](Database& db) -> absl::Status {
    Findings findings;
    CheckSeals(db, &findings);
    CheckLots(db, &findings);
    const AuditResult result = findings.Take();
    EXPECT_TRUE(result.report.ok()) << result.report.DebugString();
    Rows uses = db.Query("SELECT event_seq, lot_no, micro FROM lot_use");
    EXPECT_TRUE(uses.Next());
    EXPECT_EQ(uses.Int(0), -3);
    EXPECT_EQ(uses.Int(1), 2);
    EXPECT_EQ(uses.Int(2), 5) << "3 that usage took, 2 that an invoice did";
    EXPECT_FALSE(uses.Next());
    return absl::OkStatus();
  });
  EXPECT_TRUE(looked.ok()) << looked;
  store->reset();
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace gantry::billing
