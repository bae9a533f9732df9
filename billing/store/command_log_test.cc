// The command log by itself: what is read back, across starts and restores, and what is refused.
#include "billing/store/command_log.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace gantry::billing {
namespace {

class CommandLogTest : public testing::Test {
 protected:
  std::unique_ptr<CommandLog> Open(const BooksPosition& last, const BooksPosition& continues = {},
                                   int64_t segment_bytes = 64 << 20) {
    auto log = CommandLog::Open(
        {.file_system = &files_, .directory = "/log", .books_id = books_, .segment_bytes = segment_bytes}, last,
        continues);
    EXPECT_TRUE(log.ok()) << log.status();
    return *std::move(log);
  }
  static LogRecord Record(uint32_t epoch, int64_t sequence) {
    LogRecord record;
    record.position = {epoch, sequence};
    record.time_us = sequence * 1000;
    record.body = absl::StrCat("changes ", epoch, ".", sequence);
    return record;
  }
  void Append(CommandLog& log, uint32_t epoch, int64_t from, int64_t to) {
    for (int64_t sequence = from; sequence <= to; ++sequence) {
      ASSERT_TRUE(log.Append(Record(epoch, sequence)).ok());
    }
  }
  // "1.5 1.6 2.7": the positions that a replay hands over; or the error.
  std::string Replayed(const BooksPosition& from) {
    auto reader = CommandLogReader::Open(&files_, "/log", books_);
    if (!reader.ok()) return std::string(reader.status().message());
    std::string seen;
    BooksPosition end;
    const absl::Status status = reader->Replay(
        from,
        [&](const LogRecord& record) {
          absl::StrAppend(&seen, seen.empty() ? "" : " ", record.position.epoch, ".", record.position.sequence);
          EXPECT_EQ(record.body, Record(record.position.epoch, record.position.sequence).body);
          return absl::OkStatus();
        },
        &end);
    return status.ok() ? seen
                       : absl::StrCat(seen, absl::IsOutOfRange(status) ? "OUT_OF_RANGE: " : "", status.message());
  }
  std::vector<std::string> Names() { return *files_.List("/log"); }
  // Changes the bytes of a file behind everybody's back.
  void Damage(const std::string& name, size_t at) {
    std::string bytes = *files_.Read("/log/" + name);
    bytes[at] ^= 1;
    ASSERT_TRUE(files_.Remove("/log/" + name).ok());
    ASSERT_TRUE((*files_.Create("/log/" + name))->Append(bytes).ok());
  }

  FaultyFileSystem files_;
  const Id16 books_ = NewTimeOrderedId();
};

TEST_F(CommandLogTest, RecordsComeBackAfterAnyOfThem) {
  Append(*Open({1, 4}), 1, 5, 8);
  EXPECT_EQ(Replayed({1, 4}), "1.5 1.6 1.7 1.8");
  EXPECT_EQ(Replayed({1, 6}), "1.7 1.8");
  EXPECT_EQ(Replayed({1, 8}), "");
}

TEST_F(CommandLogTest, AStartBeginsASegmentWithTheLastRecordOnceMore) {
  Append(*Open({1, 0}), 1, 1, 3);
  Append(*Open({1, 3}), 1, 4, 4);
  Open({1, 4});
  Open({1, 4});
  Append(*Open({1, 4}), 1, 5, 5);
  EXPECT_EQ(Names().size(), 5u);
  EXPECT_EQ(Replayed({1, 0}), "1.1 1.2 1.3 1.4 1.5");
  // So what only the kernel's memory had of the first segment is missed by nobody.
  const std::string first = Names().front();
  std::string bytes = *files_.Read("/log/" + first);
  ASSERT_TRUE(files_.Truncate("/log/" + first, static_cast<int64_t>(bytes.size()) - 5).ok());
  EXPECT_EQ(Replayed({1, 0}), "1.1 1.2 1.3 1.4 1.5");
}

TEST_F(CommandLogTest, SegmentsFollowEachOther) {
  Append(*Open({1, 0}, {}, 100), 1, 1, 9);
  EXPECT_GT(Names().size(), 3u);
  EXPECT_EQ(Replayed({1, 3}), "1.4 1.5 1.6 1.7 1.8 1.9");
}

TEST_F(CommandLogTest, WhatIsMissingIsNamedAndNothingIsHandedOver) {
  Append(*Open({1, 4}), 1, 5, 6);
  Append(*Open({1, 8}), 1, 9, 9);  // 7 and 8 were never logged
  EXPECT_EQ(Replayed({1, 2}),
            "OUT_OF_RANGE: records 3 to 4 of epoch 1 are not in the command log: take a backup made after them");
  EXPECT_EQ(Replayed({1, 5}),
            "OUT_OF_RANGE: records 7 to 8 of epoch 1 are not in the command log: take a backup made after them");
  EXPECT_EQ(Replayed({1, 8}), "1.9");
}

TEST_F(CommandLogTest, ATornTailIsNoDamageAndDamageIsNoTail) {
  Append(*Open({1, 0}), 1, 1, 3);
  const std::string name = Names().front();
  const std::string whole = *files_.Read("/log/" + name);
  Damage(name, whole.size() - 1);
  EXPECT_EQ(Replayed({1, 0}), "1.1 1.2");
  Damage(name, whole.size() - 1);
  EXPECT_EQ(Replayed({1, 0}), "1.1 1.2 1.3");
  for (const size_t at : {70, 75, 90, 100}) {
    Damage(name, at);
    EXPECT_TRUE(absl::StrContains(Replayed({1, 0}), "damaged")) << at << ": " << Replayed({1, 0});
    Damage(name, at);
  }
}

TEST_F(CommandLogTest, ARestoreContinuesAnEpochAndTheWayGoesThroughIt) {
  Append(*Open({1, 0}), 1, 1, 6);
  // Restored with everything; then once more, from a backup of epoch 1 and with everything.
  Append(*Open({2, 6}, {1, 6}), 2, 7, 9);
  Append(*Open({3, 9}, {2, 9}), 3, 10, 11);
  EXPECT_EQ(Replayed({1, 4}), "1.5 1.6 2.7 2.8 2.9 3.10 3.11");
  EXPECT_EQ(Replayed({2, 8}), "2.9 3.10 3.11");
  EXPECT_EQ(Replayed({3, 11}), "");
}

TEST_F(CommandLogTest, ARestoreWithoutTheLogLeavesABranchThatIsNeverFollowed) {
  Append(*Open({1, 0}), 1, 1, 6);
  // Epoch 2 began from a backup at 4 and has logged from 6 on: 1.5, 1.6 belong to books that are gone.
  Append(*Open({2, 5}), 2, 6, 7);
  EXPECT_TRUE(absl::StrContains(Replayed({1, 4}), "does not continue epoch 1")) << Replayed({1, 4});
  EXPECT_EQ(Replayed({2, 5}), "2.6 2.7");
}

TEST_F(CommandLogTest, WhatABackupCoversCanGo) {
  auto log = Open({1, 0}, {}, 100);
  Append(*log, 1, 1, 9);
  const size_t before = Names().size();
  ASSERT_TRUE(CommandLog::Prune(&files_, "/log", {1, 5}).ok());
  EXPECT_LT(Names().size(), before);
  EXPECT_EQ(Replayed({1, 5}), "1.6 1.7 1.8 1.9");
  ASSERT_TRUE(CommandLog::Prune(&files_, "/log", {1, 9}).ok());
  Append(*log, 1, 10, 10);
  EXPECT_EQ(Replayed({1, 9}), "1.10");
  Append(*Open({2, 10}, {1, 10}), 2, 11, 11);
  ASSERT_TRUE(CommandLog::Prune(&files_, "/log", {2, 10}).ok());
  EXPECT_EQ(Replayed({2, 10}), "2.11");
}

TEST_F(CommandLogTest, TheLogOfOtherBooksIsRefused) {
  Append(*Open({1, 0}), 1, 1, 1);
  const auto other = CommandLogReader::Open(&files_, "/log", NewTimeOrderedId());
  EXPECT_TRUE(absl::IsFailedPrecondition(other.status())) << other.status();
}

}  // namespace
}  // namespace gantry::billing
