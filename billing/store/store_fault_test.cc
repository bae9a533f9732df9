// The store on a disk that fails, tears, loses and reorders, by seed, against a model of what was acknowledged: after
// every fault and every end (a kill, a power loss) the books hold all that was acknowledged, nothing that was refused,
// and of what nobody knows either a whole group or nothing of it. Half of the stories keep a command log on a disk that
// fails as well, and at their end the first state plus the log gives the last.
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "billing/store/chain.h"
#include "billing/store/faulty_vfs.h"
#include "billing/store/lineage.h"
#include "billing/store/store.h"
#include "engine/base/long_test_util.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

constexpr char kPath[] = "gantry.db";
constexpr char kLogDirectory[] = "/log";

absl::Span<const Migration> TestMigrations() {
  static const auto* migrations = [] {
    auto* made = new std::vector<Migration>{{"0001_entries", R"sql(
      PRAGMA application_id = 0x474e5459;
      CREATE TABLE account (account_id INTEGER PRIMARY KEY, balance INTEGER NOT NULL) STRICT;
      INSERT INTO account VALUES (1, 0), (2, 0);
      CREATE TABLE entry (seq INTEGER PRIMARY KEY, number INTEGER NOT NULL UNIQUE, amount INTEGER NOT NULL,
                          filler TEXT NOT NULL, hash BLOB NOT NULL) STRICT;
      CREATE INDEX entry_by_filler ON entry (filler);
      CREATE TRIGGER entry_immutable BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'immutable'); END;)sql"}};
    for (const Migration& migration : Migrations()) {
      if (absl::EndsWith(migration.name, "_lineage")) made->push_back(migration);
    }
    return made;
  }();
  return *migrations;
}

int64_t AmountOf(int64_t number) {
  return number % 997 + 1;
}

// Books one number: a chained row and two balances.
absl::Status Book(Database& db, int64_t number) {
  const ChainTail tail = TailOf(db.Query("SELECT seq, hash FROM entry ORDER BY seq DESC LIMIT 1"));
  const std::string filler(static_cast<size_t>(number % 7 * 150), static_cast<char>('a' + number % 26));
  db.Execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", tail.next_seq, number, AmountOf(number), filler,
             Blob{ChainHash(tail.hash).Add(tail.next_seq).Add(number).Finish()});
  db.Execute("UPDATE account SET balance = balance + ? WHERE account_id = 1", AmountOf(number));
  db.Execute("UPDATE account SET balance = balance - ? WHERE account_id = 2", AmountOf(number));
  return absl::OkStatus();
}

// What the books hold; a failure names what is broken in them.
std::set<int64_t> Booked(Database& db) {
  std::set<int64_t> numbers;
  int64_t sum = 0, next = 1;
  std::string hash;
  for (Rows rows = db.Query("SELECT seq, number, amount, hash FROM entry ORDER BY seq"); rows.Next(); ++next) {
    EXPECT_EQ(rows.Int(0), next) << "a gap in the chain";
    hash = ChainHash(hash).Add(rows.Int(0)).Add(rows.Int(1)).Finish();
    EXPECT_EQ(rows.Text(3), hash) << "the chain is broken at " << next;
    sum += rows.Int(2);
    EXPECT_TRUE(numbers.insert(rows.Int(1)).second);
  }
  {
    Rows rows = db.Query("SELECT balance FROM account ORDER BY account_id");
    EXPECT_TRUE(rows.Next() && rows.Int(0) == sum) << "half a command";
    EXPECT_TRUE(rows.Next() && rows.Int(0) == -sum) << "half a command";
  }
  Rows rows = db.Query("PRAGMA integrity_check");
  EXPECT_TRUE(rows.Next() && rows.Text(0) == "ok") << rows.Text(0);
  return numbers;
}

struct Counts {
  int64_t commands = 0, acknowledged = 0, faults = 0, fatal = 0, unknown = 0, sticky = 0, ends = 0, came_back = 0;
  int64_t refused_starts = 0, copies = 0;
};

class Story {
 public:
  Story(uint64_t seed, FaultyVfs& vfs, const std::shared_ptr<const FaultyVfs::Image>& base, Counts* counts)
      : random_(seed), with_log_(seed % 2 == 0), vfs_(vfs), counts_(counts) {
    vfs_.Heal();
    vfs_.Load(base);
  }

  void Tell() {
    if (with_log_) {
      ASSERT_TRUE(OpenStore().ok());
      store_.reset();
    }
    const auto backup = vfs_.Save();
    for (int round = 0; round < 3 && !testing::Test::HasFailure(); ++round) Round();
    if (testing::Test::HasFailure()) return;
    const absl::Status opened = OpenStore();
    ASSERT_TRUE(opened.ok()) << opened;
    Settle();
    store_.reset();
    if (with_log_) Replay(backup);
  }

 private:
  absl::Status OpenStore() {
    fatal_ = false;
    Store::Options options;
    options.path = kPath;
    options.vfs = vfs_.name();
    options.readers = 1;
    options.group_commands = 1 + random_() % 8;
    options.group_time = std::chrono::seconds(10);
    options.checkpoint_frames = 5 + static_cast<int>(random_() % 40);
    options.migrations = TestMigrations();
    if (with_log_) options.command_log = kLogDirectory;
    options.file_system = &log_files_;
    options.on_fatal = [this](const absl::Status&) { fatal_ = true; };
    absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(options);
    if (store.ok()) store_ = *std::move(store);
    return store.status();
  }

  void Round() {
    const bool fault_in_books = random_() % 4 != 0;
    const bool fault_in_log = with_log_ && random_() % 3 == 0;
    const auto kind = static_cast<FaultyVfs::Fault>(random_() % 4);
    const bool stays = random_() % 2 == 0;
    if (fault_in_books) vfs_.FailAt(1 + static_cast<int64_t>(random_() % 60), kind, stays, random_());
    if (fault_in_log) {
      const absl::Status error =
          random_() % 2 == 0 ? absl::DataLossError("EIO") : absl::ResourceExhaustedError("ENOSPC");
      log_files_.FailAt(1 + static_cast<int>(random_() % 30), error, random_() % 2 == 0, random_());
    }
    counts_->faults += fault_in_books + fault_in_log;
    if (!OpenStore().ok()) {
      // As when a process cannot start: somebody looks after the disk.
      ++counts_->refused_starts;
      vfs_.Heal();
      log_files_.Heal();
      const absl::Status opened = OpenStore();
      ASSERT_TRUE(opened.ok()) << opened;
    }
    if (kind == FaultyVfs::Fault::kReadError) vfs_.Heal();  // the model reads
    Settle();
    if (fault_in_books && kind == FaultyVfs::Fault::kReadError) {
      vfs_.FailAt(1 + static_cast<int64_t>(random_() % 60), kind, stays, random_());
    }
    const int bursts = 1 + static_cast<int>(random_() % 4);
    for (int burst = 0; burst < bursts && store_->WriteHealth().ok(); ++burst) Burst();
    if (!store_->WriteHealth().ok()) CheckThatItRefuses(fault_in_books && kind == FaultyVfs::Fault::kReadError);
    if (fatal_) {
      ++counts_->fatal;
      const FaultyVfs::Hit hit = vfs_.hit();
      EXPECT_TRUE(with_log_ || hit.file == FaultyVfs::Hit::File::kLog) << "nothing was unknown";
    } else {
      EXPECT_TRUE(unknown_.empty());
    }
    // A kill: whatever the process had in hand is as it is.
    const auto end = vfs_.Save();
    store_.reset();
    vfs_.Heal();
    log_files_.Heal();
    for (int i = 0; i < 2 && !testing::Test::HasFailure(); ++i) {
      vfs_.Load(end);
      if (i > 0) vfs_.LosePower(random_());
      CheckBooksAlone();
    }
    vfs_.Load(end);
    if (random_() % 2 == 0) {
      vfs_.LosePower(random_());
      log_files_.LosePower(random_());
    }
  }

  void Burst() {
    const int size = 1 + static_cast<int>(random_() % 24);
    absl::BlockingCounter left(size + 1);
    // All are queued before the first runs, so that a seed always tells the same story.
    absl::Notification started, go;
    store_->Write([&](Database&) { return started.Notify(), go.WaitForNotification(), absl::OkStatus(); },
                  [&](const absl::Status&) {
                    if (!started.HasBeenNotified()) started.Notify();  // refused before it ran
                    left.DecrementCount();
                  });
    started.WaitForNotification();
    for (int i = 0; i < size; ++i) {
      const int64_t number = ++last_;
      const bool fails = random_() % 8 == 0;
      ++counts_->commands;
      store_->Write(
          [this, number, fails](Database& db) {
            ran_.insert(number);
            Book(db, number).IgnoreError();
            return fails ? absl::FailedPreconditionError("on purpose") : absl::OkStatus();
          },
          [this, number, fails, &left](const absl::Status& status) {
            if (status.ok()) {
              EXPECT_FALSE(fails);
              acknowledged_.insert(number);
            } else if (absl::IsFailedPrecondition(status)) {
              EXPECT_TRUE(fails);
            } else {
              EXPECT_TRUE(absl::IsUnavailable(status)) << status;
              if (fatal_ && ran_.contains(number) && !fails) unknown_.insert(number);
            }
            ran_.erase(number);
            left.DecrementCount();
          });
    }
    go.Notify();
    left.Wait();
  }

  void CheckThatItRefuses(bool reads_may_fail) {
    ++counts_->sticky;
    const absl::Status refused = store_->WriteAndWait([](Database&) {
      ADD_FAILURE() << "was run";
      return absl::OkStatus();
    });
    EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
    EXPECT_TRUE(absl::StrContains(refused.message(), "billing cannot write: ")) << refused;
    EXPECT_TRUE(absl::StrContains(refused.message(), "then restart gantry-billing")) << refused;
    size_t booked = 0;
    const absl::Status read = store_->ReadAndWait([&](Database& db) {
      Rows rows = db.Query("SELECT count(*) FROM entry");
      if (rows.Next()) booked = static_cast<size_t>(rows.Int(0));
      return absl::OkStatus();
    });
    EXPECT_TRUE(read.ok() || reads_may_fail) << read;
    if (read.ok()) {
      EXPECT_EQ(booked, acknowledged_.size());
    }
  }

  // What one end of the round left, without the store's help beyond SQLite's own recovery.
  void CheckBooksAlone() {
    ++counts_->ends;
    auto database = Database::Open(kPath, Database::Mode::kWriter, vfs_.name());
    ASSERT_TRUE(database.ok()) << database.status();
    Compare(Booked(**database));
    EXPECT_TRUE((*database)->TakeError().ok());
  }

  // After a start: what nobody knew is known now.
  void Settle() {
    const absl::Status read = store_->ReadAndWait([&](Database& db) {
      const std::set<int64_t> booked = Booked(db);
      Compare(booked);
      if (!unknown_.empty()) {
        counts_->unknown += static_cast<int64_t>(unknown_.size());
        for (const int64_t number : unknown_) {
          if (booked.contains(number)) acknowledged_.insert(number), ++counts_->came_back;
        }
        unknown_.clear();
      }
      return absl::OkStatus();
    });
    ASSERT_TRUE(read.ok()) << read;
  }

  void Compare(const std::set<int64_t>& booked) {
    for (const int64_t number : acknowledged_) {
      ASSERT_TRUE(booked.contains(number)) << number << " was acknowledged and is lost";
    }
    size_t of_unknown = 0;
    for (const int64_t number : booked) {
      ASSERT_TRUE(acknowledged_.contains(number) || unknown_.contains(number)) << number << " was refused and is there";
      of_unknown += unknown_.contains(number) ? 1 : 0;
    }
    ASSERT_TRUE(of_unknown == 0 || of_unknown == unknown_.size())
        << of_unknown << " of " << unknown_.size() << " of a group are there";
  }

  // Restore: the state of the beginning and the command log.
  void Replay(const std::shared_ptr<const FaultyVfs::Image>& backup) {
    ++counts_->copies;
    vfs_.Load(backup);
    auto database = Database::Open(kPath, Database::Mode::kWriter, vfs_.name());
    ASSERT_TRUE(database.ok()) << database.status();
    const auto lineage = ReadLineage(**database);
    ASSERT_TRUE(lineage.ok()) << lineage.status();
    const auto log = CommandLogReader::Open(&log_files_, kLogDirectory, lineage->books_id);
    ASSERT_TRUE(log.ok()) << log.status();
    BooksPosition end;
    const absl::Status replayed = log->Replay(
        lineage->position,
        [&](const LogRecord& record) { return ApplyRecord(**database, kPath, TestMigrations(), record); }, &end);
    ASSERT_TRUE(replayed.ok()) << replayed;
    EXPECT_EQ(Booked(**database), acknowledged_);
    EXPECT_EQ(ReadLineage(**database)->position, end);
  }

  std::mt19937_64 random_;
  const bool with_log_;
  FaultyVfs& vfs_;
  FaultyFileSystem log_files_;
  Counts* const counts_;
  std::unique_ptr<Store> store_;
  std::atomic<bool> fatal_{false};
  int64_t last_ = 0;
  // The writer's thread while it works, else the test's.
  std::set<int64_t> acknowledged_, unknown_, ran_;
};

class StoreFaultTest : public testing::Test {
 protected:
  StoreFaultTest() { InitLog("store_fault_test", LogLevel::kNone); }
  std::shared_ptr<const FaultyVfs::Image> NewBooks() {
    Store::Options options = Options();
    auto store = Store::Open(options);
    EXPECT_TRUE(store.ok()) << store.status();
    store->reset();
    return vfs_.Save();
  }
  Store::Options Options() {
    Store::Options options;
    options.path = kPath;
    options.vfs = vfs_.name();
    options.readers = 1;
    options.migrations = TestMigrations();
    options.on_fatal = [this](const absl::Status&) { fatal_ = true; };
    return options;
  }
  FaultyVfs vfs_;
  std::atomic<bool> fatal_{false};
};

TEST_F(StoreFaultTest, NothingAcknowledgedIsLostAndNothingRefusedIsThere) {
  const uint64_t seeds = engine::LongTests() ? 12'000 : 500;
  const auto start = std::chrono::steady_clock::now();
  const auto base = NewBooks();
  Counts counts;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Story(seed, vfs_, base, &counts).Tell();
    if (HasFailure()) return;
  }
  std::printf(
      "%llu seeds: %lld commands, %lld faults, %lld stores refused, %lld commits unknown (%lld commands, %lld of them "
      "came "
      "back), %lld starts refused, %lld ends, %lld replays; 0 lost, 0 half there, %.1f s\n",
      static_cast<unsigned long long>(seeds), static_cast<long long>(counts.commands),
      static_cast<long long>(counts.faults), static_cast<long long>(counts.sticky),
      static_cast<long long>(counts.fatal), static_cast<long long>(counts.unknown),
      static_cast<long long>(counts.came_back), static_cast<long long>(counts.refused_starts),
      static_cast<long long>(counts.ends), static_cast<long long>(counts.copies),
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  // Otherwise the stories tell nothing.
  EXPECT_GT(counts.sticky, static_cast<int64_t>(seeds) / 2);
  EXPECT_GT(counts.fatal, static_cast<int64_t>(seeds) / 10);
  EXPECT_GT(counts.came_back, 0);
  EXPECT_LT(counts.came_back, counts.unknown);
}

// ---- one story each, to read ----

TEST_F(StoreFaultTest, AFullDiskRefusesWithTheReasonAndTheCure) {
  NewBooks();
  auto store = *Store::Open(Options());
  ASSERT_TRUE(store->WriteAndWait([](Database& db) { return Book(db, 1); }).ok());
  vfs_.FailAt(1, FaultyVfs::Fault::kFull, true, 1);
  absl::Status status = store->WriteAndWait([](Database& db) { return Book(db, 2); });
  EXPECT_EQ(status.message(),
            "billing cannot write: the disk of the database is full: database or disk is full; nothing is acknowledged "
            "until then: make room on the disk of gantry.db, then restart gantry-billing");
  EXPECT_FALSE(fatal_) << "everybody knows that it is not there";
  vfs_.Heal();
  EXPECT_FALSE(store->WriteAndWait([](Database& db) { return Book(db, 3); }).ok()) << "not before it was opened anew";
  EXPECT_TRUE(store
                  ->ReadAndWait(
                      [](Database& db) { return Booked(db).size() == 1 ? absl::OkStatus() : absl::DataLossError(""); })
                  .ok());
  store.reset();
  store = *Store::Open(Options());
  EXPECT_TRUE(store->WriteAndWait([](Database& db) { return Book(db, 4); }).ok());
  EXPECT_TRUE(store
                  ->ReadAndWait([](Database& db) {
                    EXPECT_EQ(Booked(db), (std::set<int64_t>{1, 4}));
                    return absl::OkStatus();
                  })
                  .ok());
}

TEST_F(StoreFaultTest, AFailedSyncOfACommitIsFatal) {
  NewBooks();
  auto store = *Store::Open(Options());
  ASSERT_TRUE(store->WriteAndWait([](Database& db) { return Book(db, 1); }).ok());
  // What a commit does: its frames, then the sync.
  const int64_t before = vfs_.operations();
  ASSERT_TRUE(store->WriteAndWait([](Database& db) { return Book(db, 2); }).ok());
  vfs_.FailAt(vfs_.operations() - before, FaultyVfs::Fault::kIoError, false, 1);
  EXPECT_TRUE(absl::IsUnavailable(store->WriteAndWait([](Database& db) { return Book(db, 3); })));
  EXPECT_TRUE(fatal_);
  EXPECT_TRUE(vfs_.hit().sync);
  EXPECT_TRUE(absl::IsUnavailable(store->WriteAndWait([](Database& db) { return Book(db, 4); })))
      << "never again on this descriptor";
}

TEST_F(StoreFaultTest, SomebodyElsesLockIsNamedAndNothingIsTriedAfterIt) {
  NewBooks();
  auto store = *Store::Open(Options());
  ASSERT_TRUE(store->WriteAndWait([](Database& db) { return Book(db, 1); }).ok());
  sqlite3* stranger = nullptr;
  ASSERT_EQ(sqlite3_open_v2(kPath, &stranger, SQLITE_OPEN_READWRITE, vfs_.name()), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(stranger, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  const absl::Status status = store->WriteAndWait([](Database& db) { return Book(db, 2); });
  EXPECT_TRUE(absl::StrContains(status.message(), "another program has the file open")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "end the program that has gantry.db open")) << status;
  EXPECT_FALSE(fatal_);
  sqlite3_close(stranger);
  EXPECT_FALSE(store->WriteAndWait([](Database& db) { return Book(db, 3); }).ok());
  store.reset();
  store = *Store::Open(Options());
  EXPECT_TRUE(store->WriteAndWait([](Database& db) { return Book(db, 4); }).ok());
}

TEST_F(StoreFaultTest, ACommandLogThatCannotBeSyncedStopsTheCommit) {
  NewBooks();
  FaultyFileSystem files;
  Store::Options options = Options();
  options.command_log = kLogDirectory;
  options.file_system = &files;
  auto store = *Store::Open(options);
  ASSERT_TRUE(store->WriteAndWait([](Database& db) { return Book(db, 1); }).ok());
  files.FailAt(2, absl::DataLossError("EIO"), false, 1);
  const absl::Status status = store->WriteAndWait([](Database& db) { return Book(db, 2); });
  EXPECT_TRUE(absl::StrContains(status.message(), "look after the disk of /log")) << status;
  EXPECT_TRUE(fatal_) << "the record may be there, and then it counts at the next start";
  EXPECT_TRUE(store
                  ->ReadAndWait([](Database& db) {
                    EXPECT_EQ(Booked(db), (std::set<int64_t>{1}));
                    return absl::OkStatus();
                  })
                  .ok());
}

TEST_F(StoreFaultTest, WhatOnlyTheCommandLogHasComesBackAtTheNextStart) {
  NewBooks();
  FaultyFileSystem files;
  Store::Options options = Options();
  options.command_log = kLogDirectory;
  options.file_system = &files;
  auto store = *Store::Open(options);
  ASSERT_TRUE(store->WriteAndWait([](Database& db) { return Book(db, 1); }).ok());
  store.reset();
  const auto older = vfs_.Save();
  store = *Store::Open(options);
  for (int64_t number = 2; number < 20; ++number) {
    ASSERT_TRUE(store->WriteAndWait([&](Database& db) { return Book(db, number); }).ok());
  }
  store.reset();
  vfs_.Load(older);  // a disk that lied about its syncs
  store = *Store::Open(options);
  EXPECT_TRUE(store
                  ->ReadAndWait([](Database& db) {
                    EXPECT_EQ(Booked(db).size(), 19u);
                    return absl::OkStatus();
                  })
                  .ok());
}

TEST_F(StoreFaultTest, BooksThatWentOnWithoutTheirLogRefuseIt) {
  NewBooks();
  FaultyFileSystem files;
  Store::Options with = Options(), without = Options();
  with.command_log = kLogDirectory;
  with.file_system = &files;
  Store::Open(with).status().IgnoreError();
  {
    auto store = *Store::Open(with);
    ASSERT_TRUE(store->WriteAndWait([](Database& db) { return Book(db, 1); }).ok());
  }
  const auto backup = vfs_.Save();
  Store::Open(without).status().IgnoreError();
  {
    auto store = *Store::Open(with);  // begins once more, after a gap
    ASSERT_TRUE(store->WriteAndWait([](Database& db) { return Book(db, 2); }).ok());
  }
  vfs_.Load(backup);
  auto database = *Database::Open(kPath, Database::Mode::kWriter, vfs_.name());
  const Lineage lineage = *ReadLineage(*database);
  auto log = *CommandLogReader::Open(&files, kLogDirectory, lineage.books_id);
  BooksPosition end;
  const absl::Status status = log.Replay(
      lineage.position, [](const LogRecord&) { return absl::OkStatus(); }, &end);
  EXPECT_TRUE(absl::IsOutOfRange(status)) << status;
}

}  // namespace
}  // namespace gantry::billing
