#include "engine/cache/prefix_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace gantry::engine {
namespace {

using Ids = std::vector<TokenId>;

// `pages` pages of ids, all equal to `value` in page 0, value + 1 in page 1, ..., and some more ids.
Ids Tokens(int pages, TokenId value, int more = 1) {
  Ids ids;
  for (int p = 0; p < pages; ++p) ids.insert(ids.end(), kKvPageTokens, value + p);
  ids.insert(ids.end(), more, value + pages);
  return ids;
}

// Inserts all full pages of ids with page numbers from `first` on, as a sequence that ends at once.
TreeNode Store(PrefixTree& tree, uint64_t salt, const Ids& ids, KvPage first, std::set<int> snapshots_after = {}) {
  std::vector<TreeNode> path;
  TreeNode node = kNoNode;
  for (int p = 0; (p + 1) * kKvPageTokens <= static_cast<int>(ids.size()); ++p) {
    KvPage page = first + p;
    node = tree.Insert(node, salt, absl::MakeConstSpan(ids).subspan(p * kKvPageTokens, kKvPageTokens), &page);
    tree.SetMtp(node);
    if (snapshots_after.count(p) > 0) tree.AttachSnapshot(node, tree.ReserveSnapshot());
    path.push_back(node);
  }
  for (const TreeNode n : path) tree.Unpin(n);
  return node;
}

int HitTokens(PrefixTree& tree, uint64_t salt, const Ids& ids) {
  return tree.Peek(salt, ids).tokens;
}

TEST(PrefixTreeTest, HitIsTheLongestSharedRunOfPagesButNeverTheWholePrompt) {
  PrefixTree tree({.pages = 16});
  Store(tree, 1, Tokens(3, 10), 0);
  EXPECT_EQ(HitTokens(tree, 1, Tokens(3, 10)), 192);
  EXPECT_EQ(HitTokens(tree, 1, Tokens(5, 10)), 192);
  EXPECT_EQ(HitTokens(tree, 1, Tokens(3, 10, 0)), 128);  // 192 ids: one must be left to compute
  EXPECT_EQ(HitTokens(tree, 1, Tokens(1, 10)), 64);
  Ids other = Tokens(3, 10);
  other[64] = 99;
  EXPECT_EQ(HitTokens(tree, 1, other), 64);
  other[63] = 99;
  EXPECT_EQ(HitTokens(tree, 1, other), 0);
}

TEST(PrefixTreeTest, SaltsShareNothing) {
  PrefixTree tree({.pages = 16});
  Store(tree, SaltHash("a"), Tokens(2, 10), 0);
  EXPECT_EQ(HitTokens(tree, SaltHash("a"), Tokens(2, 10)), 128);
  EXPECT_EQ(HitTokens(tree, SaltHash("b"), Tokens(2, 10)), 0);
  EXPECT_EQ(HitTokens(tree, SaltHash(""), Tokens(2, 10)), 0);
}

TEST(PrefixTreeTest, AModelWithStatesContinuesFromSnapshotsOnly) {
  PrefixTree tree({.pages = 16, .snapshots = 4, .needs_snapshot = true});
  Store(tree, 1, Tokens(4, 10), 0, {1});
  std::vector<TreeNode> path;
  const PrefixTree::Hit hit = tree.Match(1, Tokens(4, 10), &path);
  EXPECT_EQ(hit.tokens, 128);
  EXPECT_NE(hit.snapshot, kNoSnapshot);
  EXPECT_TRUE(hit.mtp);
  ASSERT_EQ(path.size(), 2u);
  EXPECT_EQ(tree.page(path[1]), 1);
  EXPECT_EQ(tree.evictable(), 2);
}

TEST(PrefixTreeTest, TheSamePageOfTwoSequencesIsKeptOnce) {
  PrefixTree tree({.pages = 16});
  Store(tree, 1, Tokens(2, 10), 0);
  KvPage page = 7;
  const TreeNode node = tree.Insert(kNoNode, 1, absl::MakeConstSpan(Tokens(1, 10)).first(kKvPageTokens), &page);
  EXPECT_EQ(page, 0);
  EXPECT_EQ(tree.size(), 2);
  tree.Unpin(node);
}

TEST(PrefixTreeTest, EvictionTakesDeadPagesThenTheLongestUnusedAndNeverPinnedOnes) {
  PrefixTree tree({.pages = 16, .snapshots = 4, .needs_snapshot = true});
  Store(tree, 1, Tokens(2, 10), 0, {1});
  Store(tree, 1, Tokens(2, 20), 2, {1});
  Store(tree, 1, Tokens(2, 30), 4, {0});  // page 5 is dead
  std::vector<TreeNode> path;
  tree.Match(1, Tokens(2, 10), &path);  // pins pages 0 and 1
  std::vector<KvPage> order;
  for (KvPage page; tree.Evict(&page);) order.push_back(page);
  EXPECT_EQ(order.front(), 5);
  EXPECT_EQ(order.size(), 4u);
  EXPECT_EQ(std::count(order.begin(), order.end(), 0) + std::count(order.begin(), order.end(), 1), 0);
  EXPECT_EQ(tree.snapshots_used(), 1);
  for (const TreeNode node : path) tree.Unpin(node);
  for (KvPage page; tree.Evict(&page);) order.push_back(page);
  EXPECT_EQ(order.size(), 6u);
  EXPECT_EQ(tree.size(), 0);
  EXPECT_EQ(tree.snapshots_used(), 0);
}

TEST(PrefixTreeTest, TheLeastValuableSnapshotGivesItsSlot) {
  PrefixTree tree({.pages = 32, .snapshots = 3, .needs_snapshot = true});
  Store(tree, 1, Tokens(6, 10), 0, {0, 5});  // one page saved by the first, five more by the second
  Store(tree, 1, Tokens(3, 20), 6, {2});
  std::vector<TreeNode> path;
  tree.Match(1, Tokens(3, 20), &path);
  const SnapshotSlot slot = tree.ReserveSnapshot();
  EXPECT_NE(slot, kNoSnapshot);
  EXPECT_EQ(HitTokens(tree, 1, Tokens(1, 10)), 0);
  EXPECT_EQ(HitTokens(tree, 1, Tokens(6, 10)), 384);
  EXPECT_EQ(HitTokens(tree, 1, Tokens(3, 20)), 192);
}

TEST(PrefixTreeTest, EventsSayWhatCameAndWent) {
  PrefixTree tree({.pages = 4});
  Store(tree, 5, Tokens(2, 10), 0);
  KvPage page;
  tree.Evict(&page);
  std::vector<PageEvent> events;
  ASSERT_TRUE(tree.Events(0, &events));
  ASSERT_EQ(events.size(), 3u);
  const Ids ids = Tokens(2, 10);
  const uint64_t first = PageHash(5, absl::MakeConstSpan(ids).first(64));
  const uint64_t second = PageHash(first, absl::MakeConstSpan(ids).subspan(64, 64));
  EXPECT_EQ(events[0].hash, first);
  EXPECT_TRUE(events[0].stored);
  EXPECT_EQ(events[1].hash, second);
  EXPECT_EQ(events[2].hash, second);
  EXPECT_FALSE(events[2].stored);
  EXPECT_EQ(tree.Contents(), std::vector<uint64_t>{first});
  events.clear();
  ASSERT_TRUE(tree.Events(2, &events));
  EXPECT_EQ(events.size(), 1u);
  EXPECT_FALSE(tree.Events(4, &events));
}

// Against a model that keeps every inserted prefix as a list of ids.
TEST(PrefixTreeTest, RandomUseAgreesWithAPlainMap) {
  std::mt19937 random(3);
  constexpr int kPages = 24;
  PrefixTree tree({.pages = kPages, .snapshots = 5, .needs_snapshot = true});
  std::vector<KvPage> free;
  for (int i = 0; i < kPages; ++i) free.push_back(i);
  std::map<Ids, KvPage> pages;  // prefix up to and with the page
  int hits = 0;
  for (int step = 0; step < 20'000; ++step) {
    const Ids ids = Tokens(1 + random() % 4, static_cast<TokenId>(10 + random() % 3), 1 + random() % 60);
    std::vector<TreeNode> path;
    const PrefixTree::Hit hit = tree.Match(1, ids, &path);
    ASSERT_EQ(hit.tokens, static_cast<int>(path.size()) * kKvPageTokens);
    hits += hit.tokens > 0;
    for (size_t i = 0; i < path.size(); ++i) {
      ASSERT_EQ(pages.at(Ids(ids.begin(), ids.begin() + (i + 1) * kKvPageTokens)), tree.page(path[i]));
    }
    const int full = static_cast<int>(ids.size()) / kKvPageTokens;
    for (int p = static_cast<int>(path.size()); p < full; ++p) {
      if (free.empty()) {
        KvPage page;
        if (!tree.Evict(&page)) break;
        std::erase_if(pages, [&](const auto& entry) { return entry.second == page; });
        free.push_back(page);
      }
      KvPage page = free.back();
      const KvPage own = page;
      path.push_back(tree.Insert(path.empty() ? kNoNode : path.back(), 1,
                                 absl::MakeConstSpan(ids).subspan(p * kKvPageTokens, kKvPageTokens), &page));
      const Ids prefix(ids.begin(), ids.begin() + (p + 1) * kKvPageTokens);
      if (page == own) {
        free.pop_back();
        ASSERT_TRUE(pages.emplace(prefix, page).second);
      } else {
        ASSERT_EQ(pages.at(prefix), page);
      }
      if (random() % 3 == 0) {
        const SnapshotSlot slot = tree.ReserveSnapshot();
        if (slot != kNoSnapshot) tree.AttachSnapshot(path.back(), slot);
      }
    }
    for (const TreeNode node : path) tree.Unpin(node);
    ASSERT_EQ(tree.size(), static_cast<int>(pages.size()));
    ASSERT_EQ(tree.evictable(), tree.size());
    ASSERT_LE(tree.snapshots_used(), 5);
  }
  EXPECT_GT(hits, 5'000);
}

}  // namespace
}  // namespace gantry::engine
