// Which prefixes of earlier sequences are still in the cache.
//
// A node is one full page: 64 token ids below a parent, under a salt at the root, so that tenants with different salts
// share nothing. Nodes are found by hash and confirmed by their ids. A model whose layers carry a state cannot continue
// from pages alone: it needs a snapshot (states and convolution columns, and the hidden state that the MTP layer reads
// next), kept at some nodes. A hit is the deepest node on the matching path from which a sequence can continue.
//
// Users pin the path they stand on. Pages that nobody pins may be evicted: dead ones first (no snapshot at or below
// them, in a model that needs one), then by value: tokens that a hit would save, times how often it did, halved for
// every kHalfLife lookups without one; per byte, which is the same for all pages and for all snapshots. Snapshots go by
// the same value and are not pinned: who continues from one copies it at once.
//
// The memory of pages and snapshots is the backend's; here they are numbers. Nothing allocates after construction.
// Threads: one.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/backend/blocks.h"
#include "engine/base/token_id.h"

namespace gantry::engine {

using TreeNode = int32_t;
inline constexpr TreeNode kNoNode = -1;

// Names a page by everything it depends on: salt and all ids up to its end. The same in every process and build: a
// router may compute it from a prompt. FNV-1a over 32-bit ids with a final mix, each page chained to the one before.
uint64_t SaltHash(absl::string_view salt);
uint64_t PageHash(uint64_t parent, absl::Span<const TokenId> ids);

// One page that became, or ceased to be, something a later request can use.
struct PageEvent {
  int64_t number = 0;  // counts up by one
  uint64_t hash = 0;
  bool stored = false;  // else removed
};

class PrefixTree {
 public:
  static constexpr int kEventsKept = 4096;
  static constexpr int64_t kHalfLife = 256;

  struct Options {
    int pages = 0;
    int snapshots = 0;
    bool needs_snapshot = false;  // the model has states, or an MTP layer that reads a hidden state
  };
  explicit PrefixTree(const Options& options);

  struct Hit {
    int tokens = 0;                       // a multiple of 64, at most ids.size() - 1
    SnapshotSlot snapshot = kNoSnapshot;  // when the model needs one; to be copied before the next ReserveSnapshot
    bool mtp = false;                     // every page of the path holds the MTP layer's part too
  };
  // Pins the nodes of the hit and writes them to `path` (cleared first), root first.
  Hit Match(uint64_t salt, absl::Span<const TokenId> ids, std::vector<TreeNode>* path);
  // As Match, without pinning or counting: what a hit would be now.
  Hit Peek(uint64_t salt, absl::Span<const TokenId> ids) const;

  // A full, accepted page below parent (kNoNode: below the salt's root), pinned for the caller. When the tree has such
  // a node already, that one is pinned and *page becomes its page; the caller's old page is then its own to release.
  TreeNode Insert(TreeNode parent, uint64_t salt, absl::Span<const TokenId> ids, KvPage* page);
  void Pin(TreeNode node);
  void Unpin(TreeNode node);
  KvPage page(TreeNode node) const { return nodes_[node].page; }
  // The MTP layer's part of the page has been written.
  void SetMtp(TreeNode node) { nodes_[node].mtp = true; }
  bool has_mtp(TreeNode node) const { return nodes_[node].mtp; }

  // A snapshot slot to write to, taken from the least valuable snapshot if none is free; kNoSnapshot when all are
  // reserved.
  SnapshotSlot ReserveSnapshot();
  // The reserved slot now holds the state after `node`. Where the node has a snapshot already, the slot is free again.
  void AttachSnapshot(TreeNode node, SnapshotSlot slot);
  void ReleaseSnapshot(SnapshotSlot slot);
  bool HasSnapshot(TreeNode node) const { return nodes_[node].snapshot != kNoSnapshot; }
  // Takes `slot` back from `node` for another use; false when the node does not have it any more, or when it has served
  // a hit.
  bool DetachSnapshot(TreeNode node, SnapshotSlot slot);

  // Takes the least valuable page out of the tree; false when every page is pinned.
  bool Evict(KvPage* page);
  // Pages that Evict could give.
  int evictable() const { return evictable_; }
  int size() const { return static_cast<int>(nodes_.size() - free_nodes_.size()); }
  int snapshots_used() const { return options_.snapshots - static_cast<int>(free_snapshots_.size()); }

  // Events after number `since`, oldest first. False when some of them are no longer kept: ask for Contents instead.
  bool Events(int64_t since, std::vector<PageEvent>* out) const;
  int64_t last_event() const { return events_; }
  // Hashes of every page now in the tree.
  std::vector<uint64_t> Contents() const;

 private:
  struct Node {
    uint64_t hash = 0;
    TreeNode parent = kNoNode;
    KvPage page = 0;
    SnapshotSlot snapshot = kNoSnapshot;
    int depth = 0;     // pages up to and with this one
    int children = 0;  // nodes below
    int pins = 0;
    int below = 0;  // snapshots at or below
    int64_t used_at = 0;
    int snapshot_hits = 0;
    int64_t snapshot_used_at = 0;
    bool live = false;
    bool mtp = false;
    std::array<TokenId, kKvPageTokens> ids;
  };

  TreeNode Find(uint64_t hash, TreeNode parent, absl::Span<const TokenId> ids) const;
  void Link(TreeNode node);
  void Unlink(TreeNode node);
  void DropSnapshot(TreeNode node);
  void CountBelow(TreeNode node, int change);
  double SnapshotValue(const Node& node) const;
  void Record(uint64_t hash, bool stored);
  template <typename Visit>
  void Walk(uint64_t salt, absl::Span<const TokenId> ids, const Visit& visit) const;

  Options options_;
  std::vector<Node> nodes_;
  std::vector<TreeNode> free_nodes_;
  std::vector<TreeNode> table_;  // open addressing by hash; a power of two
  std::vector<SnapshotSlot> free_snapshots_;
  std::vector<PageEvent> ring_;
  int64_t events_ = 0;
  int64_t clock_ = 0;  // lookups
  int evictable_ = 0;  // live nodes that nobody pins, counting those above unpinned ones
};

}  // namespace gantry::engine
