#include "billing/store/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <limits>
#include <thread>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "billing/store/chain.h"
#include "billing/store/changes.h"
#include "billing/store/schema.h"

namespace gantry::billing {
namespace {

class StoreTest : public testing::Test {
 protected:
  StoreTest() {
    char name[] = "/tmp/gantry-store-XXXXXX";
    dir_ = mkdtemp(name);
    Open();
  }
  ~StoreTest() override {
    store_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Open() {
    store_.reset();
    Store::Options options;
    options.path = path();
    options.group_time_max = options.group_time;  // whatever the disk of the test
    options.on_commit = [this](double, int commands) {
      ++commits_;
      commands_ += commands;
    };
    auto store = Store::Open(options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  std::string path() const { return dir_ + "/gantry.db"; }
  static absl::Status Remember(Database& db, int64_t at_us) {
    db.Execute("INSERT INTO idempotency (key, method, request_hash, response, at_us) VALUES (?, 'm', x'', x'', ?)",
               std::to_string(at_us), at_us);
    return absl::OkStatus();
  }
  int64_t Count() {
    int64_t count = -1;
    EXPECT_TRUE(store_
                    ->ReadAndWait([&](Database& db) {
                      Rows rows = db.Query("SELECT count(*) FROM idempotency");
                      if (rows.Next()) count = rows.Int(0);
                      return absl::OkStatus();
                    })
                    .ok());
    return count;
  }

  std::string dir_;
  std::unique_ptr<Store> store_;
  std::atomic<int> commits_{0}, commands_{0};
};

TEST_F(StoreTest, WhatWasAcknowledgedIsThereAfterReopening) {
  ASSERT_TRUE(store_->WriteAndWait([](Database& db) { return Remember(db, 1); }).ok());
  Open();
  EXPECT_EQ(Count(), 1);
}

TEST_F(StoreTest, CommandsThatWaitShareACommit) {
  absl::Notification started, go, all;
  std::atomic<int> left{100};
  store_->Write([&](Database&) { return started.Notify(), go.WaitForNotification(), absl::OkStatus(); },
                [](const absl::Status&) {});
  started.WaitForNotification();
  for (int i = 0; i < 100; ++i) {
    store_->Write([i](Database& db) { return Remember(db, i); },
                  [&](const absl::Status& status) {
                    EXPECT_TRUE(status.ok());
                    if (--left == 0) all.Notify();
                  });
  }
  go.Notify();
  all.WaitForNotification();
  EXPECT_EQ(commands_, 101);
  EXPECT_EQ(commits_, 2);
}

TEST_F(StoreTest, AFailedCommandIsUndoneAlone) {
  absl::Notification go, all;
  std::vector<absl::Status> results(3);
  store_->Write([&](Database&) { return go.WaitForNotification(), absl::OkStatus(); }, [](const absl::Status&) {});
  for (int i = 0; i < 3; ++i) {
    store_->Write(
        [i](Database& db) {
          Remember(db, i).IgnoreError();
          return i == 1 ? absl::NotFoundError("no") : absl::OkStatus();
        },
        [&, i](const absl::Status& status) {
          results[static_cast<size_t>(i)] = status;
          if (i == 2) all.Notify();
        });
  }
  go.Notify();
  all.WaitForNotification();
  EXPECT_TRUE(results[0].ok());
  EXPECT_TRUE(absl::IsNotFound(results[1]));
  EXPECT_TRUE(results[2].ok());
  EXPECT_EQ(Count(), 2);
}

TEST_F(StoreTest, AnSqlErrorFailsTheCommandThatIgnoredIt) {
  absl::Status status = store_->WriteAndWait([](Database& db) {
    Remember(db, 7).IgnoreError();
    Remember(db, 7).IgnoreError();  // UNIQUE
    Rows rows = db.Query("SELECT count(*) FROM idempotency");
    EXPECT_FALSE(rows.Next()) << "after an error nothing is read";
    return absl::OkStatus();
  });
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(absl::StrContains(status.message(), "UNIQUE")) << status;
  EXPECT_EQ(Count(), 0);
  EXPECT_TRUE(store_->WriteAndWait([](Database& db) { return Remember(db, 8); }).ok())
      << "the next one is not affected";
}

TEST_F(StoreTest, SumsThatOverflowAreErrors) {
  absl::Status status = store_->WriteAndWait([](Database& db) {
    Remember(db, std::numeric_limits<int64_t>::max()).IgnoreError();
    db.Execute("UPDATE idempotency SET at_us = at_us + 1");
    return absl::OkStatus();
  });
  EXPECT_FALSE(status.ok());
  status = store_->WriteAndWait([](Database& db) {
    db.Execute("UPDATE idempotency SET at_us = ?", std::numeric_limits<uint64_t>::max());
    return absl::OkStatus();
  });
  EXPECT_TRUE(absl::IsOutOfRange(status)) << status;
}

TEST_F(StoreTest, ReadersCannotWrite) {
  absl::Status status = store_->ReadAndWait([](Database& db) { return Remember(db, 1); });
  EXPECT_TRUE(absl::StrContains(status.message(), "readonly")) << status;
}

TEST_F(StoreTest, StatementsNestInThemselves) {
  ASSERT_TRUE(store_
                  ->WriteAndWait([](Database& db) {
                    for (int i = 0; i < 3; ++i) Remember(db, i).IgnoreError();
                    const char* sql = "SELECT at_us FROM idempotency ORDER BY at_us";
                    int pairs = 0;
                    for (Rows outer = db.Query(sql); outer.Next();) {
                      for (Rows inner = db.Query(sql); inner.Next();) ++pairs;
                    }
                    EXPECT_EQ(pairs, 9);
                    return absl::OkStatus();
                  })
                  .ok());
}

TEST_F(StoreTest, OneProcessWrites) {
  Store::Options options;
  options.path = path();
  auto second = Store::Open(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_TRUE(absl::StrContains(second.status().message(), "in use")) << second.status();
}

TEST_F(StoreTest, ANewerSchemaIsRefused) {
  ASSERT_TRUE(store_
                  ->WriteAndWait([](Database& db) {
                    db.Execute("PRAGMA user_version = 99");
                    return absl::OkStatus();
                  })
                  .ok());
  store_.reset();
  Store::Options options;
  options.path = path();
  auto store = Store::Open(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(store.status())) << store.status();
  EXPECT_TRUE(absl::StrContains(store.status().message(), "version 99")) << store.status();
}

TEST_F(StoreTest, EachStepForwardLeavesACopyOfWhatWasBefore) {
  ASSERT_TRUE(store_->WriteAndWait([](Database& db) { return Remember(db, 7); }).ok());
  store_.reset();
  std::vector<Migration> steps(Migrations().begin(), Migrations().end());
  steps.push_back({"9001_add", "CREATE TABLE added (id INTEGER PRIMARY KEY) STRICT"});
  steps.push_back({"9002_fill", "INSERT INTO added SELECT at_us FROM idempotency"});
  {
    auto database = *Database::Open(path(), Database::Mode::kWriter);
    const absl::Status status = ApplySchema(*database, path(), steps);
    ASSERT_TRUE(status.ok()) << status;
    Rows rows = database->Query("SELECT id FROM added");
    EXPECT_TRUE(rows.Next() && rows.Int(0) == 7);
  }
  auto copy = Database::Open(path() + ".before-9002_fill", Database::Mode::kReader);
  ASSERT_TRUE(copy.ok()) << copy.status();
  {
    Rows rows = (*copy)->Query("SELECT (SELECT count(*) FROM added), (SELECT count(*) FROM idempotency)");
    ASSERT_TRUE(rows.Next());
    EXPECT_EQ(rows.Int(0), 0);
    EXPECT_EQ(rows.Int(1), 1);
  }
  EXPECT_FALSE(std::filesystem::exists(path() + ".before-" + Migrations()[0].name));  // nothing was there to copy
}

TEST_F(StoreTest, AStepThatFailsLeavesTheVersionBeforeIt) {
  store_.reset();
  std::vector<Migration> steps(Migrations().begin(), Migrations().end());
  steps.push_back(
      {"9001_orphan", "CREATE TABLE orphan (id BLOB REFERENCES party) STRICT; INSERT INTO orphan VALUES (x'00')"});
  {
    auto database = *Database::Open(path(), Database::Mode::kWriter);
    const absl::Status status = ApplySchema(*database, path(), steps);
    EXPECT_TRUE(absl::StrContains(status.message(), "migration 9001_orphan: a row of orphan would refer to nothing"))
        << status;
  }
  Open();
  EXPECT_EQ(Count(), 0);
}

TEST_F(StoreTest, WhatIsNoDatabaseIsNamed) {
  const std::string file = dir_ + "/text.db";
  FILE* out = fopen(file.c_str(), "w");
  fputs("this is certainly not a database, and it is long enough to show that it is none of them at all......", out);
  fclose(out);
  Store::Options options;
  options.path = file;
  auto store = Store::Open(options);
  EXPECT_TRUE(absl::IsDataLoss(store.status())) << store.status();
  EXPECT_TRUE(absl::StrContains(store.status().message(), "text.db")) << store.status();
}

TEST_F(StoreTest, FullQueuesRefuse) {
  store_.reset();
  Store::Options options;
  options.path = path();
  options.queue_limit = 1;
  auto store = Store::Open(options);
  ASSERT_TRUE(store.ok());
  absl::Notification started, go;
  (*store)->Write(
      [&](Database&) {
        started.Notify();
        go.WaitForNotification();
        return absl::OkStatus();
      },
      [](const absl::Status&) {});
  started.WaitForNotification();
  absl::Status second, third;
  (*store)->Write([](Database&) { return absl::OkStatus(); }, [&](const absl::Status& status) { second = status; });
  (*store)->Write([](Database&) { return absl::OkStatus(); }, [&](const absl::Status& status) { third = status; });
  EXPECT_TRUE(absl::IsResourceExhausted(third)) << third;
  go.Notify();
  store->reset();
  EXPECT_TRUE(second.ok());
}

// ---- bounds ----

TEST_F(StoreTest, AGroupTakesNoFurtherCommandAfterItsTime) {
  absl::Notification started, go, all;
  std::atomic<int> left{20};
  store_->Write([&](Database&) { return started.Notify(), go.WaitForNotification(), absl::OkStatus(); },
                [](const absl::Status&) {});
  started.WaitForNotification();
  const int before = commits_;
  for (int i = 0; i < 20; ++i) {
    store_->Write(
        [i](Database& db) {
          std::this_thread::sleep_for(std::chrono::milliseconds(2));
          return Remember(db, i);
        },
        [&](const absl::Status&) {
          if (--left == 0) all.Notify();
        });
  }
  go.Notify();
  all.WaitForNotification();
  EXPECT_GE(commits_ - before, 7) << "5 ms hold three commands of 2 ms";
  EXPECT_LE(commits_ - before, 21);
}

TEST_F(StoreTest, WhatACommandKeepsIsForgottenAfterAnythingElseAndAfterAnythingUndone) {
  struct Seen {
    int times = 0;
  };
  int times = 0;
  const auto keeping = [&](const absl::Status& end) {
    absl::Notification over;
    store_->WriteKeeping([&](Database& db) { return times = ++db.Kept<Seen>()->times, end; },
                         [&](const absl::Status&) { over.Notify(); });
    over.WaitForNotification();
    return times;
  };
  EXPECT_EQ(keeping(absl::OkStatus()), 1);
  EXPECT_EQ(keeping(absl::OkStatus()), 2);
  ASSERT_TRUE(store_
                  ->WriteAndWait([](Database& db) {
                    EXPECT_EQ(db.Kept<Seen>(), nullptr);
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_EQ(keeping(absl::OkStatus()), 1);
  EXPECT_EQ(keeping(absl::NotFoundError("undone")), 2);
  EXPECT_EQ(keeping(absl::OkStatus()), 1);
}

TEST_F(StoreTest, AQueryEndsWithItsTime) {
  absl::Notification over;
  absl::Status result;
  store_->ReadFor(
      std::chrono::milliseconds(50),
      [](Database& db) {
        Rows rows = db.Query(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT sum(i) FROM "
            "n");
        rows.Next();
        return absl::OkStatus();
      },
      [&](absl::Status status) {
        result = std::move(status);
        over.Notify();
      });
  over.WaitForNotification();
  EXPECT_TRUE(absl::IsDeadlineExceeded(result)) << result;
  EXPECT_EQ(store_->Stats().queries_ended, 1);
  EXPECT_EQ(Count(), 0) << "the next query has its own time";
}

TEST_F(StoreTest, AQueryThatHoldsTheLogBackIsEndedBeforeTheLogGrowsWithoutBound) {
  store_.reset();
  Store::Options options;
  options.path = path();
  options.readers = 1;
  options.checkpoint_frames = 10;
  options.wal_frames_max = 200;
  auto store = *Store::Open(options);
  absl::Notification reading, over;
  absl::Status result;
  store->Read(
      [&](Database& db) {
        Rows first = db.Query("SELECT count(*) FROM idempotency");
        first.Next();
        reading.Notify();
        Rows rows = db.Query(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000000) SELECT sum(i) FROM "
            "n");
        rows.Next();
        return absl::OkStatus();
      },
      [&](absl::Status status) {
        result = std::move(status);
        over.Notify();
      });
  reading.WaitForNotification();
  int64_t at = 0;
  while (!over.HasBeenNotified() && at < 100'000) {
    ASSERT_TRUE(store->WriteAndWait([&](Database& db) { return Remember(db, ++at); }).ok());
  }
  over.WaitForNotification();
  EXPECT_TRUE(absl::IsDeadlineExceeded(result)) << result;
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(store->WriteAndWait([&](Database& db) { return Remember(db, ++at); }).ok());
  const StoreStats stats = store->Stats();
  EXPECT_LT(stats.wal_frames, 200) << "it has begun anew";
  EXPECT_GT(stats.checkpoints, 0);
  EXPECT_GT(stats.longest_commit_s, 0);
  std::printf("write-ahead log: at most %d frames, %lld checkpoints, the longest %.1f ms; longest commit %.1f ms\n",
              stats.wal_frames_most, static_cast<long long>(stats.checkpoints), stats.longest_checkpoint_s * 1e3,
              stats.longest_commit_s * 1e3);
}

// ---- copies ----

TEST_F(StoreTest, ACopyMadeWhileCommandsGoOnIsTheStateOfOneMoment) {
  const std::string filler(2000, 'x');
  const auto add = [&filler](Database& db, int64_t at) {
    db.Execute("INSERT INTO idempotency (key, method, request_hash, response, at_us) VALUES (?, ?, x'', x'', ?)",
               std::to_string(at), filler, at);
  };
  int64_t at = 0;
  ASSERT_TRUE(store_
                  ->WriteAndWait([&](Database& db) {
                    while (at < 4000) add(db, ++at);
                    return absl::OkStatus();
                  })
                  .ok());
  absl::Notification copied;
  absl::Status result;
  const int64_t before = at;
  store_->Copy(dir_ + "/copy.db", [&](absl::Status status) {
    result = std::move(status);
    copied.Notify();
  });
  // What is committed while the copy is made overwrites pages that were copied already.
  while (!copied.HasBeenNotified()) {
    ASSERT_TRUE(store_
                    ->WriteAndWait([&](Database& db) {
                      add(db, ++at);
                      db.Execute("UPDATE idempotency SET at_us = at_us WHERE at_us % 100 = ?", at % 100);
                      return absl::OkStatus();
                    })
                    .ok());
  }
  copied.WaitForNotification();
  ASSERT_TRUE(result.ok()) << result;
  auto copy = *Database::Open(dir_ + "/copy.db", Database::Mode::kReader);
  Rows rows = copy->Query("SELECT count(*), max(at_us), (SELECT * FROM pragma_integrity_check) FROM idempotency");
  ASSERT_TRUE(rows.Next());
  EXPECT_EQ(rows.Int(0), rows.Int(1));
  EXPECT_GE(rows.Int(0), before);
  EXPECT_LE(rows.Int(0), at);
  EXPECT_EQ(rows.Text(2), "ok");
}

// ---- the command log's needs ----

TEST_F(StoreTest, EveryTableCanBeRecorded) {
  store_.reset();
  auto database = *Database::Open(path(), Database::Mode::kWriter);
  const absl::Status status = CheckRecordable(*database);
  EXPECT_TRUE(status.ok()) << status;
  const struct {
    const char* sql;
    const char* message;
  } kRefused[] = {
      {"CREATE TABLE bad (a INTEGER) STRICT", "table bad has no primary key"},
      {"CREATE TABLE bad (a TEXT PRIMARY KEY)", "table bad has a primary key that may be NULL"},
      {"CREATE TABLE bad (a INTEGER PRIMARY KEY, b INTEGER AS (a + 1)) STRICT", "table bad has generated columns"},
  };
  for (const auto& row : kRefused) {
    database->Script(row.sql);
    EXPECT_TRUE(absl::StrContains(CheckRecordable(*database).message(), row.message)) << CheckRecordable(*database);
    database->Script("DROP TABLE bad");
  }
}

TEST_F(StoreTest, ANumberThatWasGivenAwayIsNotGivenAgainAfterAReplay) {
  store_.reset();
  auto database = *Database::Open(path(), Database::Mode::kWriter);
  database->Script("CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b TEXT NOT NULL) STRICT");
  ASSERT_TRUE(database->BackupTo(dir_ + "/copy.db").ok());
  std::vector<std::string> groups;
  for (const char* group : {"INSERT INTO t (b) VALUES ('one'), ('two'), ('three')", "DELETE FROM t WHERE a > 1"}) {
    database->Script("BEGIN");
    auto recorder = *ChangeRecorder::Start(*database);
    database->Script(group);
    groups.push_back(*recorder->Changes());
    recorder.reset();
    database->Script("COMMIT");
  }
  auto copy = *Database::Open(dir_ + "/copy.db", Database::Mode::kWriter);
  for (const std::string& changes : groups) {
    copy->Script("BEGIN");
    ASSERT_TRUE(ApplyChanges(*copy, changes).ok());
    copy->Script("COMMIT");
  }
  copy->Script("INSERT INTO t (b) VALUES ('next')");
  Rows rows = copy->Query("SELECT max(a), count(*) FROM t");
  ASSERT_TRUE(rows.Next());
  EXPECT_EQ(rows.Int(0), 4);
  EXPECT_EQ(rows.Int(1), 2);
}

TEST_F(StoreTest, ChangesOfAnotherStateOrShapeAreRefused) {
  store_.reset();
  auto database = *Database::Open(path(), Database::Mode::kWriter);
  database->Script("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT NOT NULL) STRICT; INSERT INTO t VALUES (1, 'one')");
  database->Script("BEGIN");
  auto recorder = *ChangeRecorder::Start(*database);
  database->Script("UPDATE t SET b = 'two' WHERE a = 1");
  const std::string changes = *recorder->Changes();
  recorder.reset();
  database->Script("ROLLBACK; BEGIN");
  EXPECT_TRUE(ApplyChanges(*database, changes).ok());
  database->Script("ROLLBACK; UPDATE t SET b = 'other'; BEGIN");
  absl::Status status = ApplyChanges(*database, changes);
  EXPECT_TRUE(absl::StrContains(status.message(), "table t: a row holds something else")) << status;
  database->Script("ROLLBACK; ALTER TABLE t ADD COLUMN c TEXT; BEGIN");
  status = ApplyChanges(*database, changes);
  EXPECT_TRUE(absl::StrContains(status.message(), "table t has another shape")) << status;
  database->Script("ROLLBACK; DROP TABLE t; BEGIN");
  status = ApplyChanges(*database, changes);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

TEST(Chain, FieldsAreTellableApart) {
  EXPECT_NE(ChainHash("").Add("ab").Add("c").Finish(), ChainHash("").Add("a").Add("bc").Finish());
  EXPECT_NE(ChainHash("").Add(int64_t{1}).Finish(), ChainHash("x").Add(int64_t{1}).Finish());
}

}  // namespace
}  // namespace gantry::billing
