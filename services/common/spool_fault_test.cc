// The spool on a disk that fails, tears, loses and reorders, by seed: what was reported durable comes back until it is
// acknowledged, nothing comes back in part, and the spool opens again whatever happened.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/long_test_util.h"
#include "services/common/spool.h"

namespace gantry {
namespace {

struct Counts {
  int64_t records = 0, durable = 0, faults = 0, power_losses = 0, refused_starts = 0;
};

// A payload that tells whether it is whole: its number and a filling that follows from it.
std::string PayloadOf(int64_t number) {
  std::string payload = absl::StrCat(number, " ");
  std::mt19937_64 random(static_cast<uint64_t>(number));
  const size_t size = payload.size() + random() % 900;
  while (payload.size() < size) payload.push_back(static_cast<char>('a' + random() % 26));
  return payload;
}

// Who has work in progress: appends records, is told what is durable, delivers some of it.
class Story {
 public:
  Story(uint64_t seed, Counts* counts) : random_(seed), counts_(counts) {}

  void Tell() {
    for (int round = 0; round < 3 && !testing::Test::HasFailure(); ++round) Round();
    files_.Heal();
    std::vector<SpoolRecord> replayed;
    auto spool = Spool::Open(&files_, options_, &replayed);
    ASSERT_TRUE(spool.ok()) << spool.status();
    Compare(replayed);
  }

 private:
  void Round() {
    if (random_() % 4 != 0) {
      ++counts_->faults;
      const absl::Status error =
          random_() % 2 == 0 ? absl::DataLossError("EIO") : absl::ResourceExhaustedError("ENOSPC");
      files_.FailAt(1 + static_cast<int>(random_() % 40), error, random_() % 2 == 0, random_());
    }
    std::vector<SpoolRecord> replayed;
    auto spool = Spool::Open(&files_, options_, &replayed);
    if (!spool.ok()) {
      // The disk failed while it was read; a process would be started again.
      EXPECT_NE(spool.status().message().find("E"), absl::string_view::npos);
      ++counts_->refused_starts;
      files_.Heal();
      replayed.clear();
      spool = Spool::Open(&files_, options_, &replayed);
      ASSERT_TRUE(spool.ok()) << spool.status();
    }
    Compare(replayed);
    if (testing::Test::HasFailure()) return;
    Work(**spool, replayed);
    spool->reset();
    files_.Heal();
    if (random_() % 2 == 0) {
      ++counts_->power_losses;
      files_.LosePower(random_());
    }
  }

  void Work(Spool& spool, const std::vector<SpoolRecord>& replayed) {
    // What was found and is not delivered yet is appended anew before the old segments may go.
    auto reservation = spool.Reserve(1 << 20);
    ASSERT_TRUE(reservation.ok()) << reservation.status();
    std::map<int64_t, uint64_t> sequences;
    for (const SpoolRecord& record : replayed) {
      int64_t number = 0;
      ASSERT_TRUE(absl::SimpleAtoi(record.payload.substr(0, record.payload.find(' ')), &number));
      if (!delivered_.contains(number)) Append(spool, number, &*reservation, &sequences);
    }
    Wait();
    bool all = true;
    {
      std::lock_guard lock(mutex_);
      for (const auto& [number, sequence] : sequences) all = all && anew_.contains(number);
    }
    if (all) spool.DropReplayed();
    const int bursts = 1 + static_cast<int>(random_() % 12);
    for (int burst = 0; burst < bursts; ++burst) {
      for (uint64_t i = 0, n = 1 + random_() % 4; i < n; ++i) Append(spool, ++last_, &*reservation, &sequences);
      Wait();
      if (spool.Stats().failing) {
        EXPECT_EQ(spool.Reserve(10).status().code(), absl::StatusCode::kUnavailable);
        if (random_() % 3 == 0) files_.Heal();
      }
      // Delivered: whoever got it keeps it, the spool may forget it.
      for (const auto& [number, sequence] : sequences) {
        std::lock_guard lock(mutex_);
        if (!durable_.contains(number) || random_() % 3 != 0) continue;
        delivered_.insert(number);
        spool.Ack(sequence);
      }
      for (const int64_t number : delivered_) sequences.erase(number);
    }
  }

  void Append(Spool& spool, int64_t number, Spool::Reservation* reservation, std::map<int64_t, uint64_t>* sequences) {
    ++counts_->records;
    {
      std::lock_guard lock(mutex_);
      ++waiting_;
    }
    (*sequences)[number] = spool.Append(7, PayloadOf(number), reservation, [this, number](const absl::Status& status) {
      std::lock_guard lock(mutex_);
      if (status.ok()) {
        durable_.insert(number);
        anew_.insert(number);
      } else {
        anew_.erase(number);
      }
      if (--waiting_ == 0) idle_.notify_all();
    });
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return waiting_ == 0; });
  }

  // What must come back does, and nothing else does.
  void Compare(const std::vector<SpoolRecord>& replayed) {
    std::set<int64_t> found;
    for (const SpoolRecord& record : replayed) {
      int64_t number = 0;
      ASSERT_TRUE(absl::SimpleAtoi(record.payload.substr(0, record.payload.find(' ')), &number));
      ASSERT_EQ(record.payload, PayloadOf(number)) << "came back in part";
      ASSERT_LE(number, last_) << "was never written";
      found.insert(number);
    }
    for (const int64_t number : durable_) {
      ASSERT_TRUE(found.contains(number) || delivered_.contains(number)) << "record " << number << " is lost";
    }
    counts_->durable += static_cast<int64_t>(durable_.size());
    anew_.clear();
  }

  std::mt19937_64 random_;
  Counts* const counts_;
  FaultyFileSystem files_;
  const SpoolOptions options_{.directory = "/spool", .segment_bytes = 2500};
  int64_t last_ = 0;
  std::mutex mutex_;
  std::condition_variable idle_;
  int waiting_ = 0;                   // guarded by mutex_
  std::set<int64_t> durable_, anew_;  // guarded by mutex_
  std::set<int64_t> delivered_;
};

TEST(SpoolFault, LosesNothingThatWasReportedDurable) {
  const uint64_t seeds = engine::LongTests() ? 20'000 : 500;
  const auto start = std::chrono::steady_clock::now();
  Counts counts;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Story(seed, &counts).Tell();
    if (HasFailure()) return;
  }
  std::printf(
      "%llu seeds: %lld records, %lld faults, %lld power losses, %lld starts refused, 0 lost, 0 in part, %.1f s\n",
      static_cast<unsigned long long>(seeds), static_cast<long long>(counts.records),
      static_cast<long long>(counts.faults), static_cast<long long>(counts.power_losses),
      static_cast<long long>(counts.refused_starts),
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  EXPECT_GT(counts.faults, static_cast<int64_t>(seeds));
  EXPECT_GT(counts.power_losses, static_cast<int64_t>(seeds));
}

}  // namespace
}  // namespace gantry
