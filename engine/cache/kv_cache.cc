#include "engine/cache/kv_cache.h"

#include "engine/base/check.h"

namespace gantry::engine {

KvCache::KvCache(const Options& options)
    : options_(options),
      pool_(options.pages),
      tree_({.pages = options.prefix_cache ? options.pages : 0,
             .snapshots = options.snapshots,
             .needs_snapshot = options.needs_snapshot}) {}

PrefixTree::Hit KvCache::Peek(uint64_t salt, absl::Span<const TokenId> ids) const {
  return options_.prefix_cache ? tree_.Peek(salt, ids) : PrefixTree::Hit{};
}

PrefixTree::Hit KvCache::Begin(absl::Span<const TokenId> ids, Holding* holding) {
  GANTRY_CHECK(holding->pages.empty() && holding->path.empty(), "a sequence begins with nothing");
  if (!options_.prefix_cache) return {};
  const PrefixTree::Hit hit = tree_.Match(holding->salt, ids, &holding->path);
  for (const TreeNode node : holding->path) holding->pages.push_back(tree_.page(node));
  holding->mtp_pages = hit.mtp ? static_cast<int>(holding->path.size()) : 0;
  return hit;
}

bool KvCache::Reserve(int positions, Holding* holding) {
  const int wanted = (positions + kKvPageTokens - 1) / kKvPageTokens - static_cast<int>(holding->pages.size());
  if (wanted > attainable()) return false;
  for (int i = 0; i < wanted; ++i) {
    if (pool_.free() == 0) {
      KvPage page;
      GANTRY_CHECK(tree_.Evict(&page), "what is evictable can be evicted");
      pool_.Release(page);
    }
    holding->pages.push_back(pool_.Allocate());
  }
  return true;
}

void KvCache::Accept(absl::Span<const TokenId> ids, int processed, int mtp_position, Holding* holding) {
  if (!options_.prefix_cache) return;
  for (int i = static_cast<int>(holding->path.size()); (i + 1) * kKvPageTokens <= processed; ++i) {
    const TreeNode parent = i == 0 ? kNoNode : holding->path.back();
    KvPage page = holding->pages[i];
    const TreeNode node =
        tree_.Insert(parent, holding->salt, ids.subspan(size_t{kKvPageTokens} * i, kKvPageTokens), &page);
    holding->path.push_back(node);
    // Somebody else's page takes the own one's place unless that holds MTP entries which the other lacks.
    if (page != holding->pages[i] && (tree_.has_mtp(node) || mtp_position <= i * kKvPageTokens)) {
      pool_.Release(holding->pages[i]);
      holding->pages[i] = page;
    }
  }
  for (; holding->mtp_pages < static_cast<int>(holding->path.size()) &&
         (holding->mtp_pages + 1) * kKvPageTokens <= mtp_position;
       ++holding->mtp_pages) {
    const TreeNode node = holding->path[holding->mtp_pages];
    if (tree_.page(node) == holding->pages[holding->mtp_pages]) tree_.SetMtp(node);
  }
}

void KvCache::Release(Holding* holding) {
  for (size_t i = 0; i < holding->pages.size(); ++i) {
    if (i >= holding->path.size() || tree_.page(holding->path[i]) != holding->pages[i])
      pool_.Release(holding->pages[i]);
  }
  for (const TreeNode node : holding->path) tree_.Unpin(node);
  holding->pages.clear();
  holding->path.clear();
  holding->mtp_pages = 0;
}

}  // namespace gantry::engine
