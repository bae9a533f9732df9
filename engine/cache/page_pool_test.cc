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
  CacheWish wish{
      .cache_bytes = 40'000, .sequences = 4, .draft_depth_max = 1, .max_context = 128, .prefix_cache = false};
  const CachePlan plan = PlanCaches(kCosts, wish).value();
  EXPECT_EQ(plan.sequence_slots, 4);
  EXPECT_EQ(plan.draft_slots, 4);
  EXPECT_EQ(plan.snapshots, 0);
  EXPECT_EQ(plan.kv_pages, 8);  // more would fit, four sequences of two pages can use 8
  wish.cache_bytes = 5'450;
  EXPECT_EQ(PlanCaches(kCosts, wish)->kv_pages, 5);
}

TEST(PlanCachesTest, APrefixCacheTakesSnapshotsAndMorePagesAndStaysUnderTheCap) {
  for (int64_t bytes : {3'000, 5'000, 9'999, 20'000, 1'000'000}) {
    const CacheWish wish{
        .cache_bytes = bytes, .sequences = 4, .draft_depth_max = 3, .max_context = 128, .hidden_bytes = 10};
    const CachePlan plan = PlanCaches(kCosts, wish).value();
    EXPECT_LE((plan.sequence_slots + plan.draft_slots) * 50 + plan.snapshots * 60 + plan.kv_pages * 1000, bytes);
    EXPECT_GE(plan.draft_slots, 3);
    EXPECT_GE(plan.kv_pages, 2);
    EXPECT_GT(plan.snapshots, 0);
  }
}

TEST(PlanCachesTest, CapBelowOneSequenceIsRefusedWithTheArithmetic) {
  CacheWish wish{.cache_bytes = 2'249, .sequences = 4, .draft_depth_max = 1, .max_context = 128};
  const auto plan = PlanCaches(kCosts, wish);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(plan.status().message()),
              HasSubstr("(4 sequences + 1 drafts) x 50 bytes of state + 2 pages (context 128) x 1000 bytes = 2250"));
  wish.cache_bytes = 2'250;
  EXPECT_TRUE(PlanCaches(kCosts, wish).ok());
}

TEST(PagePoolTest, RandomUseNeverHandsAPageOutTwiceAndLosesNone) {
  std::mt19937 random(1);
  PagePool pool(50);
  std::set<KvPage> held;
  for (int step = 0; step < 5000; ++step) {
    if (!held.empty() && (pool.free() == 0 || random() % 2 == 0)) {
      const KvPage page = *std::next(held.begin(), static_cast<int>(random() % held.size()));
      held.erase(page);
      pool.Release(page);
    } else {
      ASSERT_TRUE(held.insert(pool.Allocate()).second);
    }
    ASSERT_EQ(pool.used(), static_cast<int>(held.size()));
  }
}

}  // namespace
}  // namespace gantry::engine
