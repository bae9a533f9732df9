#include "services/common/spool.h"
#include "services/common/spool_retention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <memory>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace gantry {
namespace {

using ::testing::HasSubstr;

// Appends and waits until it is durable.
absl::Status AppendNow(Spool& spool, const std::string& payload, uint64_t* sequence = nullptr) {
  auto reservation = spool.Reserve(Spool::BytesOf(payload.size()));
  if (!reservation.ok()) return reservation.status();
  std::promise<absl::Status> promise;
  const uint64_t s = spool.Append(7, payload, &*reservation, [&](absl::Status status) { promise.set_value(status); });
  if (sequence != nullptr) *sequence = s;
  return promise.get_future().get();
}

std::vector<std::string> Payloads(const std::vector<SpoolRecord>& records) {
  std::vector<std::string> payloads;
  for (const SpoolRecord& record : records) payloads.push_back(record.payload);
  return payloads;
}

class SpoolTest : public ::testing::Test {
 protected:
  std::unique_ptr<Spool> Open(std::vector<SpoolRecord>* replayed = nullptr) {
    std::vector<SpoolRecord> ignored;
    auto spool = Spool::Open(&files_, options_, replayed == nullptr ? &ignored : replayed);
    EXPECT_TRUE(spool.ok()) << spool.status();
    return std::move(*spool);
  }
  FaultyFileSystem files_;
  SpoolOptions options_{.directory = "/spool"};
};

TEST_F(SpoolTest, ASegmentThatACrashLeftEmptyDoesNotStandInTheWay) {
  { ASSERT_TRUE(AppendNow(*Open(), "one").ok()); }
  // The next segment's name reached the disk, none of its bytes did.
  ASSERT_TRUE(files_.Create("/spool/00000000000000000002.spool").ok());
  ASSERT_TRUE(files_.SyncDirectory("/spool").ok());
  std::vector<SpoolRecord> replayed;
  auto spool = Open(&replayed);
  EXPECT_EQ(Payloads(replayed), (std::vector<std::string>{"one"}));
  EXPECT_TRUE(AppendNow(*spool, "two").ok());
}

TEST_F(SpoolTest, RecordsComeBackInOrderAfterAReopen) {
  {
    auto spool = Open();
    for (const char* payload : {"one", "", "three"}) EXPECT_TRUE(AppendNow(*spool, payload).ok());
  }
  std::vector<SpoolRecord> replayed;
  auto spool = Open(&replayed);
  EXPECT_EQ(Payloads(replayed), (std::vector<std::string>{"one", "", "three"}));
  EXPECT_EQ(replayed[2].sequence, 3u);
  EXPECT_EQ(replayed[2].type, 7u);
  uint64_t next = 0;
  EXPECT_TRUE(AppendNow(*spool, "four", &next).ok());
  EXPECT_EQ(next, 4u);
}

TEST_F(SpoolTest, PowerLossKeepsEveryRecordThatWasReportedDurable) {
  {
    auto spool = Open();
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(AppendNow(*spool, absl::StrCat("record ", i)).ok());
    files_.LosePower();
  }
  std::vector<SpoolRecord> replayed;
  Open(&replayed);
  EXPECT_EQ(replayed.size(), 20u);
}

TEST_F(SpoolTest, TornTailIsCutAtEveryByte) {
  {
    auto spool = Open();
    ASSERT_TRUE(AppendNow(*spool, "first").ok());
    ASSERT_TRUE(AppendNow(*spool, "second").ok());
  }
  const std::string path = "/spool/00000000000000000001.spool";
  const std::string whole = files_.Read(path).value();
  const auto first_bytes = static_cast<size_t>(Spool::BytesOf(5));
  for (size_t length = first_bytes; length < whole.size(); ++length) {
    FaultyFileSystem files;
    ASSERT_TRUE(files.Create(path).value()->Append(whole.substr(0, length)).ok());
    std::vector<SpoolRecord> replayed;
    ASSERT_TRUE(Spool::Open(&files, options_, &replayed).ok());
    EXPECT_EQ(Payloads(replayed), std::vector<std::string>{"first"}) << length;
    EXPECT_EQ(files.Read(path)->size(), first_bytes);
  }
}

TEST_F(SpoolTest, DamageBeforeTheTailIsDataLossNamingSegmentAndOffset) {
  options_.segment_bytes = 1;  // a segment for every record
  {
    auto spool = Open();
    ASSERT_TRUE(AppendNow(*spool, "first").ok());
    ASSERT_TRUE(AppendNow(*spool, "second").ok());
  }
  const std::string path = "/spool/00000000000000000001.spool";
  std::string bytes = files_.Read(path).value();
  bytes.back() ^= 1;
  ASSERT_TRUE(files_.Remove(path).ok());
  ASSERT_TRUE(files_.Create(path).value()->Append(bytes).ok());
  std::vector<SpoolRecord> replayed;
  const auto spool = Spool::Open(&files_, options_, &replayed);
  EXPECT_EQ(spool.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(spool.status().message()),
              HasSubstr("00000000000000000001.spool: a record whose checksum does not fit at offset 0"));
}

TEST_F(SpoolTest, FailedSyncKillsTheSegmentAndTheSpoolRefusesUntilTheDiskIsWell) {
  auto spool = Open();
  ASSERT_TRUE(AppendNow(*spool, "kept").ok());
  auto reservation = spool->Reserve(1000).value();
  files_.FailFrom(2, absl::DataLossError("EIO"));  // the write succeeds, its fsync fails
  std::promise<absl::Status> lost;
  spool->Append(7, "lost", &reservation, [&](absl::Status status) { lost.set_value(status); });
  EXPECT_EQ(lost.get_future().get().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(spool->Stats().failing);
  EXPECT_EQ(spool->Reserve(10).status().code(), absl::StatusCode::kUnavailable);
  files_.Heal();
  // A running request still has its reservation; its record goes to a new segment.
  std::promise<absl::Status> next;
  spool->Append(7, "next", &reservation, [&](absl::Status status) { next.set_value(status); });
  EXPECT_TRUE(next.get_future().get().ok());
  EXPECT_TRUE(AppendNow(*spool, "last").ok());
  spool.reset();
  files_.LosePower();
  std::vector<SpoolRecord> replayed;
  Open(&replayed);
  EXPECT_EQ(Payloads(replayed), (std::vector<std::string>{"kept", "next", "last"}));
}

TEST_F(SpoolTest, IdleSpoolFindsOutByItselfThatTheDiskIsWellAgain) {
  auto spool = Open();
  files_.FailFrom(1, absl::ResourceExhaustedError("ENOSPC"));
  EXPECT_FALSE(AppendNow(*spool, "lost").ok());
  files_.Heal();
  absl::Status status = absl::UnknownError("");
  for (int i = 0; i < 200 && !status.ok(); ++i) {
    status = AppendNow(*spool, "found");
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_TRUE(status.ok());
}

TEST_F(SpoolTest, FullSpoolRefusesAndReservationsGoBack) {
  options_.total_bytes = 1000;
  auto spool = Open();
  {
    auto reservation = spool->Reserve(900);
    ASSERT_TRUE(reservation.ok());
    const auto refused = spool->Reserve(101);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("0 bytes used and 900 reserved of 1000"));
  }
  EXPECT_TRUE(spool->Reserve(1000).ok());
}

TEST_F(SpoolTest, SegmentsGoWhenTheirRecordsAreAcked) {
  options_.segment_bytes = 60;
  auto spool = Open();
  std::vector<uint64_t> sequences(10);
  for (uint64_t& sequence : sequences) ASSERT_TRUE(AppendNow(*spool, "0123456789", &sequence).ok());
  EXPECT_EQ(spool->Stats().segments, 5);
  for (uint64_t sequence : sequences) spool->Ack(sequence);
  for (int i = 0; i < 500 && spool->Stats().segments > 0; ++i) absl::SleepFor(absl::Milliseconds(2));
  EXPECT_EQ(spool->Stats().segments, 0);
  EXPECT_EQ(spool->Stats().bytes, 0);
}

TEST_F(SpoolTest, ReplayedSegmentsStayUntilTheyAreDropped) {
  { ASSERT_TRUE(AppendNow(*Open(), "old").ok()); }
  std::vector<SpoolRecord> replayed;
  { Open(&replayed); }
  replayed.clear();
  {
    auto spool = Open(&replayed);
    ASSERT_EQ(replayed.size(), 1u);
    ASSERT_TRUE(AppendNow(*spool, "again").ok());
    spool->DropReplayed();
    for (int i = 0; i < 500 && files_.List("/spool")->size() > 1; ++i) absl::SleepFor(absl::Milliseconds(2));
  }
  replayed.clear();
  Open(&replayed);
  EXPECT_EQ(Payloads(replayed), std::vector<std::string>{"again"});
}

TEST_F(SpoolTest, AcknowledgedRecordsStayUntilABackupCoversThem) {
  {
    auto spool = Open();
    SpoolRetention retention(spool.get());
    std::vector<uint64_t> sequences(4);
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(AppendNow(*spool, absl::StrCat("record ", i), &sequences[i]).ok());
    for (int i = 0; i < 3; ++i) retention.Acked(sequences[i], 1000 + i, 0);
    EXPECT_EQ(retention.kept(), 3u);
    retention.Acked(sequences[3], 2000, 1002);  // a backup of 1002 has what was acknowledged before
    EXPECT_EQ(retention.kept(), 2u);
  }
  std::vector<SpoolRecord> replayed;
  Open(&replayed);
  EXPECT_EQ(replayed.size(), 4u) << "one segment holds them all";
}

TEST_F(SpoolTest, KeptRecordsNeverCrowdOutNewOnes) {
  options_.segment_bytes = 1000;
  auto spool = Open();
  SpoolRetention retention(spool.get(), 20'000);
  for (int i = 0; i < 1000; ++i) {
    uint64_t sequence = 0;
    ASSERT_TRUE(AppendNow(*spool, std::string(64, 'x'), &sequence).ok());
    retention.Acked(sequence, 1000 + i, 0);
  }
  for (int i = 0; i < 500 && spool->Stats().bytes > 25'000; ++i) absl::SleepFor(absl::Milliseconds(2));
  EXPECT_LE(spool->Stats().bytes, 25'000);
  EXPECT_GT(retention.kept(), 50u);
}

TEST_F(SpoolTest, ConcurrentAppendsShareCommits) {
  const std::string directory = absl::StrCat("/tmp/gantry_spool_group_", getpid());
  std::filesystem::remove_all(directory);
  std::vector<SpoolRecord> ignored;
  auto spool = Spool::Open(PosixFileSystem(), {.directory = directory}, &ignored).value();
  std::atomic<int> done = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        auto reservation = spool->Reserve(100).value();
        spool->Append(1, "payload", &reservation, [&](absl::Status status) { done += status.ok(); });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  while (done < 800) absl::SleepFor(absl::Milliseconds(1));
  const SpoolStats stats = spool->Stats();
  std::printf("800 appends in %llu commits, last fsync %.2f ms\n", static_cast<unsigned long long>(stats.commits),
              stats.last_sync_ms);
  EXPECT_LT(stats.commits, 400u);
  spool.reset();
  std::filesystem::remove_all(directory);
}

// A child appends and tells through a pipe what was reported durable; it is killed at a random moment. Nothing told is
// lost.
TEST(SpoolKillTest, KilledWriterLosesNothingThatWasReportedWritten) {
  const std::string directory = absl::StrCat("/tmp/gantry_spool_kill_", getpid());
  std::filesystem::remove_all(directory);
  std::mt19937 random(5);
  std::set<uint64_t> told;
  for (int round = 0; round < 25; ++round) {
    int fds[2];
    ASSERT_EQ(pipe(fds), 0);
    const pid_t child = fork();
    if (child == 0) {
      std::vector<SpoolRecord> replayed;
      auto spool =
          Spool::Open(PosixFileSystem(),
                      {.directory = directory, .durability = Durability::kWrite, .segment_bytes = 4096}, &replayed);
      if (!spool.ok()) _exit(3);
      while (true) {
        auto reservation = (*spool)->Reserve(Spool::BytesOf(64));
        if (!reservation.ok()) _exit(4);
        auto told_sequence = std::make_shared<uint64_t>(0);
        std::promise<void> done;
        *told_sequence =
            (*spool)->Append(1, std::string(64, 'x'), &*reservation, [&](absl::Status) { done.set_value(); });
        done.get_future().wait();
        if (write(fds[1], told_sequence.get(), sizeof(uint64_t)) < 0) _exit(5);
      }
    }
    close(fds[1]);
    usleep(1000 + random() % 20'000);
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself with " << WEXITSTATUS(status);
    uint64_t sequence = 0;
    while (read(fds[0], &sequence, sizeof(sequence)) == sizeof(sequence)) told.insert(sequence);
    close(fds[0]);
    std::vector<SpoolRecord> replayed;
    const auto spool =
        Spool::Open(PosixFileSystem(), {.directory = directory, .durability = Durability::kWrite}, &replayed);
    ASSERT_TRUE(spool.ok()) << spool.status();
    std::set<uint64_t> found;
    for (const SpoolRecord& record : replayed) found.insert(record.sequence);
    EXPECT_EQ(found.size(), replayed.size());
    for (const uint64_t s : told)
      ASSERT_TRUE(found.contains(s)) << "round " << round << ": record " << s << " was reported and is gone";
  }
  EXPECT_GT(told.size(), 25u);
  std::printf("%zu records told over 25 kills, none lost\n", told.size());
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace gantry
