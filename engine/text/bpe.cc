#include "engine/text/bpe.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <queue>

namespace gantry::engine::text {
namespace {

// Below this a scan over all pairs per merge beats any structure.
constexpr size_t kShort = 48;

}  // namespace

void BytePairEncoder::Encode(absl::string_view piece, std::vector<TokenId>* out) const {
  if (piece.size() <= kShort) {
    EncodeShort(piece, out);
  } else {
    EncodeLong(piece, out);
  }
}

void BytePairEncoder::EncodeShort(absl::string_view piece, std::vector<TokenId>* out) const {
  TokenId symbols[kShort];
  const Merge* pairs[kShort];  // of symbols i and i + 1; none for the last
  int count = 0;
  for (const char byte : piece) symbols[count++] = bytes_[static_cast<unsigned char>(byte)];
  for (int i = 0; i < count; ++i) pairs[i] = i + 1 < count ? Find(symbols[i], symbols[i + 1]) : nullptr;
  while (count > 1) {
    int best = -1;
    for (int i = 0; i + 1 < count; ++i) {
      if (pairs[i] != nullptr && (best < 0 || pairs[i]->rank < pairs[best]->rank)) best = i;
    }
    if (best < 0) break;
    symbols[best] = pairs[best]->merged;
    std::copy(symbols + best + 2, symbols + count, symbols + best + 1);
    std::copy(pairs + best + 2, pairs + count, pairs + best + 1);
    --count;
    pairs[best] = best + 1 < count ? Find(symbols[best], symbols[best + 1]) : nullptr;
    if (best > 0) pairs[best - 1] = Find(symbols[best - 1], symbols[best]);
  }
  std::copy_if(symbols, symbols + count, std::back_inserter(*out), [](TokenId id) { return id != kNoToken; });
}

void BytePairEncoder::EncodeLong(absl::string_view piece, std::vector<TokenId>* out) const {
  const auto n = static_cast<uint32_t>(piece.size());
  constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();
  std::vector<TokenId> symbols(n);
  std::vector<uint32_t> next(n), previous(n);
  std::vector<int> rank(n, kNoRank);  // of the pair (i, next[i]); kNoRank also where i has been merged away
  // Positions of pairs by rank, and the ranks that have any: all pairs of one rank are merged from left to right.
  absl::flat_hash_map<int, std::vector<uint32_t>> buckets;
  std::priority_queue<int, std::vector<int>, std::greater<>> ranks;
  const auto put = [&](uint32_t i) {
    const Merge* merge = next[i] == kEnd ? nullptr : Find(symbols[i], symbols[next[i]]);
    rank[i] = merge == nullptr ? kNoRank : merge->rank;
    if (merge == nullptr) return;
    std::vector<uint32_t>& bucket = buckets[merge->rank];
    if (bucket.empty()) ranks.push(merge->rank);
    bucket.push_back(i);
  };
  for (uint32_t i = 0; i < n; ++i) {
    symbols[i] = bytes_[static_cast<unsigned char>(piece[i])];
    next[i] = i + 1 < n ? i + 1 : kEnd;
    previous[i] = i == 0 ? kEnd : i - 1;
  }
  for (uint32_t i = 0; i < n; ++i) put(i);
  while (!ranks.empty()) {
    const int lowest = ranks.top();
    ranks.pop();
    std::vector<uint32_t> bucket = std::move(buckets[lowest]);
    buckets.erase(lowest);
    if (!std::is_sorted(bucket.begin(), bucket.end())) std::sort(bucket.begin(), bucket.end());
    for (size_t k = 0; k < bucket.size(); ++k) {
      const uint32_t i = bucket[k];
      if (rank[i] != lowest) continue;  // one of the two was merged away since
      const uint32_t right = next[i];
      symbols[i] = Find(symbols[i], symbols[right])->merged;
      rank[right] = kNoRank;
      next[i] = next[right];
      if (next[i] != kEnd) previous[next[i]] = i;
      put(i);
      if (previous[i] != kEnd) put(previous[i]);
      // A token made by several merges can open a pair of lower rank than its own: that one goes first.
      if (!ranks.empty() && ranks.top() < lowest && k + 1 < bucket.size()) {
        std::vector<uint32_t>& rest = buckets[lowest];
        if (rest.empty()) ranks.push(lowest);
        rest.insert(rest.end(), bucket.begin() + static_cast<int64_t>(k) + 1, bucket.end());
        break;
      }
    }
  }
  for (uint32_t i = 0; i != kEnd; i = next[i]) {
    if (symbols[i] != kNoToken) out->push_back(symbols[i]);
  }
}

}  // namespace gantry::engine::text
