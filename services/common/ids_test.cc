#include "services/common/ids.h"

#include <set>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace gantry {
namespace {

TEST(Id16Test, BytesAndHexRoundTrip) {
  Id16 id = NewTimeOrderedId();
  EXPECT_EQ(*Id16::FromBytes(id.ToBytes()), id);
  EXPECT_EQ(*Id16::FromHex(id.ToHex()), id);
  EXPECT_EQ(Id16::FromHex("000102030405060708090A0b0c0d0e0f")->ToHex(), "000102030405060708090a0b0c0d0e0f");
}

TEST(Id16Test, OtherLengthsAndDigitsAreRefused) {
  EXPECT_EQ(Id16::FromBytes("short").status().message(), "id: expected 16 bytes, found 5");
  EXPECT_FALSE(Id16::FromHex("00").ok());
  EXPECT_FALSE(Id16::FromHex(std::string(31, '0') + "g").ok());
}

TEST(Id16Test, LaterIdsSortLaterAndCarryTheTime) {
  int64_t before_ms = absl::ToUnixMillis(absl::Now());
  Id16 last = NewTimeOrderedId();
  EXPECT_GE(TimeOfIdMs(last), before_ms);
  EXPECT_LE(TimeOfIdMs(last), absl::ToUnixMillis(absl::Now()));
  for (int i = 0; i < 10'000; ++i) {
    Id16 next = NewTimeOrderedId();
    ASSERT_LT(last, next);
    last = next;
  }
}

TEST(Id16Test, ThreadsNeverShareAnId) {
  std::vector<std::vector<Id16>> made(4);
  std::vector<std::thread> threads;
  threads.reserve(made.size());
  for (auto& mine : made) {
    threads.emplace_back([&mine] {
      for (int i = 0; i < 5'000; ++i) mine.push_back(NewTimeOrderedId());
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<Id16> all;
  for (const auto& mine : made) all.insert(mine.begin(), mine.end());
  EXPECT_EQ(all.size(), 20'000u);
}

}  // namespace
}  // namespace gantry
