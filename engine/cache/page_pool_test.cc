#include "engine/cache/page_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

namespace gantry::engine {
namespace {

using ::testing::HasSubstr;

constexpr CacheCosts kCosts{.kv_page_bytes = 1000, .state_slot_bytes = 50};

TEST(PlanCachesTest, SlotsComeFirstAndPagesFillTheRest) {
  const CachePlan plan = PlanCaches(kCosts, 10'000, 4, 2, 128).value();
  EXPECT_EQ(plan.state_slots, 8);
  EXPECT_EQ(plan.kv_pages, 8);  // 9 would fit, four sequences of two pages can use 8
  EXPECT_EQ(PlanCaches(kCosts, 5'400, 4, 2, 128)->kv_pages, 5);
}

TEST(PlanCachesTest, CapBelowOneSequenceIsRefusedWithTheArithmetic) {
  const auto plan = PlanCaches(kCosts, 2'399, 4, 2, 128);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(plan.status().message()),
              HasSubstr("4 sequences x 2 state slots x 50 bytes + 2 pages (context 128) x 1000 bytes = 2400 bytes"));
  EXPECT_TRUE(PlanCaches(kCosts, 2'400, 4, 2, 128).ok());
}

TEST(PagePoolTest, RandomUseNeverHandsAPageOutTwiceAndLosesNone) {
  std::mt19937 random(1);
  PagePool pool(50);
  std::vector<std::vector<KvPage>> owners(10);
  for (int step = 0; step < 5000; ++step) {
    std::vector<KvPage>& owner = owners[random() % owners.size()];
    if (random() % 3 == 0) {
      pool.Release(&owner);
    } else {
      const int count = static_cast<int>(random() % 8), before = pool.free();
      const bool given = pool.Allocate(count, &owner);
      EXPECT_EQ(given, count <= before);
      EXPECT_EQ(pool.free(), given ? before - count : before);
    }
    std::set<KvPage> seen;
    size_t held = 0;
    for (const auto& pages : owners) {
      held += pages.size();
      seen.insert(pages.begin(), pages.end());
    }
    ASSERT_EQ(seen.size(), held);
    ASSERT_EQ(pool.used(), static_cast<int>(held));
  }
}

}  // namespace
}  // namespace gantry::engine
