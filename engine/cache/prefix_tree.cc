#include "engine/cache/prefix_tree.h"

#include <algorithm>
#include <cmath>

#include "engine/base/check.h"

namespace gantry::engine {
namespace {

constexpr uint64_t kFnvOffset = 1469598103934665603ull, kFnvPrime = 1099511628211ull;

// The finalizer of SplitMix64: FNV's low bits alone are too regular for a table.
uint64_t Mix(uint64_t h) {
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
  return h ^ (h >> 31);
}

size_t TableSize(int pages) {
  size_t size = 16;
  while (size < 2 * static_cast<size_t>(pages)) size *= 2;
  return size;
}

}  // namespace

uint64_t SaltHash(absl::string_view salt) {
  uint64_t h = kFnvOffset;
  for (const char c : salt) h = (h ^ static_cast<uint8_t>(c)) * kFnvPrime;
  return Mix(h);
}

uint64_t PageHash(uint64_t parent, absl::Span<const TokenId> ids) {
  uint64_t h = parent ^ kFnvOffset;
  for (const TokenId id : ids) h = (h ^ static_cast<uint32_t>(id)) * kFnvPrime;
  return Mix(h);
}

PrefixTree::PrefixTree(const Options& options)
    : options_(options), nodes_(options.pages), table_(TableSize(options.pages), kNoNode), ring_(kEventsKept) {
  free_nodes_.reserve(options.pages);
  for (int i = options.pages - 1; i >= 0; --i) free_nodes_.push_back(i);
  free_snapshots_.reserve(options.snapshots);
  for (int i = options.snapshots - 1; i >= 0; --i) free_snapshots_.push_back(i);
}

// visit(node) for the nodes of the matching path, root first; at most as many as leave one id to compute.
template <typename Visit>
void PrefixTree::Walk(uint64_t salt, absl::Span<const TokenId> ids, const Visit& visit) const {
  const int pages = (static_cast<int>(ids.size()) - 1) / kKvPageTokens;
  uint64_t hash = salt;
  TreeNode parent = kNoNode;
  for (int i = 0; i < pages; ++i) {
    const absl::Span<const TokenId> page = ids.subspan(size_t{kKvPageTokens} * i, kKvPageTokens);
    hash = PageHash(hash, page);
    const TreeNode node = Find(hash, parent, page);
    if (node == kNoNode) return;
    visit(node);
    parent = node;
  }
}

PrefixTree::Hit PrefixTree::Peek(uint64_t salt, absl::Span<const TokenId> ids) const {
  Hit hit;
  bool mtp = true;
  Walk(salt, ids, [&](TreeNode node) {
    mtp = mtp && nodes_[node].mtp;
    if (options_.needs_snapshot && !HasSnapshot(node)) return;
    hit = {.tokens = nodes_[node].depth * kKvPageTokens, .snapshot = nodes_[node].snapshot, .mtp = mtp};
  });
  return hit;
}

PrefixTree::Hit PrefixTree::Match(uint64_t salt, absl::Span<const TokenId> ids, std::vector<TreeNode>* path) {
  ++clock_;
  path->clear();
  const Hit hit = Peek(salt, ids);
  if (hit.tokens == 0) return hit;
  Walk(salt, ids.first(std::min(ids.size(), static_cast<size_t>(hit.tokens) + 1)), [&](TreeNode node) {
    Pin(node);
    nodes_[node].used_at = clock_;
    path->push_back(node);
  });
  Node& last = nodes_[path->back()];
  last.snapshot_used_at = clock_;
  ++last.snapshot_hits;
  return hit;
}

TreeNode PrefixTree::Insert(TreeNode parent, uint64_t salt, absl::Span<const TokenId> ids, KvPage* page) {
  GANTRY_CHECK(ids.size() == kKvPageTokens, "only full pages enter the tree");
  const uint64_t hash = PageHash(parent == kNoNode ? salt : nodes_[parent].hash, ids);
  TreeNode found = Find(hash, parent, ids);
  if (found == kNoNode) {
    GANTRY_CHECK(!free_nodes_.empty(), "every page of the pool has room in the tree");
    found = free_nodes_.back();
    free_nodes_.pop_back();
    Node& node = nodes_[found];
    node.hash = hash;
    node.parent = parent;
    node.page = *page;
    node.snapshot = kNoSnapshot;
    node.depth = parent == kNoNode ? 1 : nodes_[parent].depth + 1;
    node.children = node.pins = node.below = node.snapshot_hits = 0;
    node.snapshot_used_at = 0;
    node.live = true;
    node.mtp = false;
    std::copy(ids.begin(), ids.end(), node.ids.begin());
    if (parent != kNoNode) ++nodes_[parent].children;
    Link(found);
    ++evictable_;
    Record(hash, true);
  }
  nodes_[found].used_at = clock_;
  *page = nodes_[found].page;
  Pin(found);
  return found;
}

void PrefixTree::Pin(TreeNode node) {
  if (nodes_[node].pins++ == 0) --evictable_;
}

void PrefixTree::Unpin(TreeNode node) {
  GANTRY_CHECK(nodes_[node].live && nodes_[node].pins > 0, "who unpins has pinned");
  if (--nodes_[node].pins == 0) ++evictable_;
}

SnapshotSlot PrefixTree::ReserveSnapshot() {
  if (free_snapshots_.empty()) {
    TreeNode worst = kNoNode;
    double least = 0;
    for (TreeNode i = 0; i < static_cast<TreeNode>(nodes_.size()); ++i) {
      if (!nodes_[i].live || !HasSnapshot(i)) continue;
      const double value = SnapshotValue(nodes_[i]);
      if (worst == kNoNode || value < least) {
        worst = i;
        least = value;
      }
    }
    if (worst == kNoNode) return kNoSnapshot;
    DropSnapshot(worst);
  }
  const SnapshotSlot slot = free_snapshots_.back();
  free_snapshots_.pop_back();
  return slot;
}

void PrefixTree::AttachSnapshot(TreeNode node, SnapshotSlot slot) {
  if (HasSnapshot(node)) {
    ReleaseSnapshot(slot);
    return;
  }
  nodes_[node].snapshot = slot;
  nodes_[node].snapshot_hits = 0;
  nodes_[node].snapshot_used_at = clock_;
  CountBelow(node, 1);
}

void PrefixTree::ReleaseSnapshot(SnapshotSlot slot) {
  free_snapshots_.push_back(slot);
}

bool PrefixTree::DetachSnapshot(TreeNode node, SnapshotSlot slot) {
  if (nodes_[node].snapshot != slot || nodes_[node].snapshot_hits > 0) return false;
  nodes_[node].snapshot = kNoSnapshot;
  CountBelow(node, -1);
  return true;
}

bool PrefixTree::Evict(KvPage* page) {
  TreeNode worst = kNoNode;
  bool worst_dead = false;
  for (TreeNode i = 0; i < static_cast<TreeNode>(nodes_.size()); ++i) {
    const Node& node = nodes_[i];
    if (!node.live || node.pins > 0 || node.children > 0) continue;
    // A leaf is worth 64 tokens to whoever comes back for it, so that the longest unused goes first.
    const bool dead = options_.needs_snapshot && node.below == 0;
    if (worst == kNoNode || dead > worst_dead || (dead == worst_dead && node.used_at < nodes_[worst].used_at)) {
      worst = i;
      worst_dead = dead;
    }
  }
  if (worst == kNoNode) return false;
  Node& node = nodes_[worst];
  if (HasSnapshot(worst)) DropSnapshot(worst);
  if (node.parent != kNoNode) --nodes_[node.parent].children;
  Unlink(worst);
  Record(node.hash, false);
  node.live = false;
  --evictable_;
  free_nodes_.push_back(worst);
  *page = node.page;
  return true;
}

void PrefixTree::DropSnapshot(TreeNode node) {
  ReleaseSnapshot(nodes_[node].snapshot);
  nodes_[node].snapshot = kNoSnapshot;
  CountBelow(node, -1);
}

void PrefixTree::CountBelow(TreeNode node, int change) {
  for (; node != kNoNode; node = nodes_[node].parent) nodes_[node].below += change;
}

// Tokens that would have to be computed again without it: back to the snapshot above.
double PrefixTree::SnapshotValue(const Node& node) const {
  TreeNode above = node.parent;
  while (above != kNoNode && !HasSnapshot(above)) above = nodes_[above].parent;
  const int pages = node.depth - (above == kNoNode ? 0 : nodes_[above].depth);
  const double age = static_cast<double>(clock_ - node.snapshot_used_at) / kHalfLife;
  return pages * (1.0 + node.snapshot_hits) * std::exp2(-age);
}

// ---- the hash table: linear probing, deletion by shifting back ----

TreeNode PrefixTree::Find(uint64_t hash, TreeNode parent, absl::Span<const TokenId> ids) const {
  const size_t mask = table_.size() - 1;
  for (size_t i = hash & mask; table_[i] != kNoNode; i = (i + 1) & mask) {
    const Node& node = nodes_[table_[i]];
    if (node.hash == hash && node.parent == parent && std::equal(ids.begin(), ids.end(), node.ids.begin())) {
      return table_[i];
    }
  }
  return kNoNode;
}

void PrefixTree::Link(TreeNode node) {
  const size_t mask = table_.size() - 1;
  size_t i = nodes_[node].hash & mask;
  while (table_[i] != kNoNode) i = (i + 1) & mask;
  table_[i] = node;
}

void PrefixTree::Unlink(TreeNode node) {
  const size_t mask = table_.size() - 1;
  size_t hole = nodes_[node].hash & mask;
  while (table_[hole] != node) hole = (hole + 1) & mask;
  for (size_t i = (hole + 1) & mask; table_[i] != kNoNode; i = (i + 1) & mask) {
    // An entry may move back to the hole unless its own place lies after it.
    const size_t home = nodes_[table_[i]].hash & mask;
    if (((i - home) & mask) < ((i - hole) & mask)) continue;
    table_[hole] = table_[i];
    hole = i;
  }
  table_[hole] = kNoNode;
}

// ---- events ----

void PrefixTree::Record(uint64_t hash, bool stored) {
  ++events_;
  ring_[events_ % kEventsKept] = {events_, hash, stored};
}

bool PrefixTree::Events(int64_t since, std::vector<PageEvent>* out) const {
  if (since < 0 || since > events_ || events_ - since > kEventsKept) return false;
  for (int64_t number = since + 1; number <= events_; ++number) out->push_back(ring_[number % kEventsKept]);
  return true;
}

std::vector<uint64_t> PrefixTree::Contents() const {
  std::vector<uint64_t> hashes;
  for (const Node& node : nodes_) {
    if (node.live) hashes.push_back(node.hash);
  }
  return hashes;
}

}  // namespace gantry::engine
