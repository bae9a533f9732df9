// The pages of sequences: their own, and those that they share through the prefix tree.
//
// A sequence's first pages may stand in the tree (its path, pinned while it runs); the others are its own until they
// are full and accepted, when they join the tree. A page that somebody else has put there meanwhile is taken instead of
// the own one: equal prefixes have equal bits.
//
// Threads: one. Invariant: every page is free, one sequence's own, or the tree's.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/cache/page_pool.h"
#include "engine/cache/prefix_tree.h"

namespace gantry::engine {

class KvCache {
 public:
  struct Options {
    int pages = 0;
    int snapshots = 0;
    bool needs_snapshot = false;
    bool prefix_cache = true;  // false: nothing is shared or kept
  };
  explicit KvCache(const Options& options);

  struct Holding {
    uint64_t salt = 0;  // SaltHash of the request's
    std::vector<KvPage> pages;
    std::vector<TreeNode> path;  // pages[i] is path[i]'s, or has the same content, for i < path.size()
    int mtp_pages = 0;           // of the path, known to hold the MTP layer's part
    int positions() const { return static_cast<int>(pages.size()) * kKvPageTokens; }
  };

  // What a sequence with these ids would find.
  PrefixTree::Hit Peek(uint64_t salt, absl::Span<const TokenId> ids) const;
  // Takes the longest usable prefix. REQUIRES: the holding is empty; its salt is set.
  PrefixTree::Hit Begin(absl::Span<const TokenId> ids, Holding* holding);
  // Pages for positions [0, positions), evicting from the tree what is needed. False, and nothing changed, when there
  // are not enough.
  bool Reserve(int positions, Holding* holding);
  // Pages that Reserve could give.
  int attainable() const { return pool_.free() + tree_.evictable(); }
  // The full pages of the first `processed` ids join the tree; those whose MTP part is complete are marked.
  void Accept(absl::Span<const TokenId> ids, int processed, int mtp_position, Holding* holding);
  // Gives everything back.
  void Release(Holding* holding);
  // Pages that are not in the tree.
  absl::Span<const KvPage> Own(const Holding& holding) const {
    return absl::MakeConstSpan(holding.pages).subspan(holding.path.size());
  }

  PrefixTree& tree() { return tree_; }
  const PrefixTree& tree() const { return tree_; }
  int pages() const { return options_.pages; }
  int free() const { return pool_.free(); }

 private:
  Options options_;
  PagePool pool_;
  PrefixTree tree_;
};

}  // namespace gantry::engine
