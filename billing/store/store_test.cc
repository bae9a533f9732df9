#include "billing/store/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <limits>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "billing/store/chain.h"
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

TEST(Chain, FieldsAreTellableApart) {
  EXPECT_NE(ChainHash("").Add("ab").Add("c").Finish(), ChainHash("").Add("a").Add("bc").Finish());
  EXPECT_NE(ChainHash("").Add(int64_t{1}).Finish(), ChainHash("x").Add(int64_t{1}).Finish());
}

}  // namespace
}  // namespace gantry::billing
