// Byte-level byte-pair encoding of one piece: repeatedly merge the adjacent pair of lowest rank, leftmost of equals.
//
// Short pieces (nearly all) are scanned; long ones keep positions in buckets by rank, which is O(n log n) in the worst
// case. Immutable after loading; Encode may be called from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "engine/base/token_id.h"

namespace gantry::engine::text {

class BytePairEncoder {
 public:
  // Ids of the single bytes. A byte without one merges with nothing and encodes to nothing, as in the implementations
  // that vocabularies are made with.
  BytePairEncoder() { bytes_.fill(kNoToken); }
  void SetByte(unsigned char byte, TokenId id) { bytes_[byte] = id; }
  // A merge of rank `rank` (lower first); of several merges of one pair the first stands.
  void AddMerge(TokenId left, TokenId right, int rank, TokenId merged) {
    merges_.try_emplace(Key(left, right), Merge{rank, merged});
  }
  void Reserve(size_t merges) { merges_.reserve(merges); }

  void Encode(absl::string_view piece, std::vector<TokenId>* out) const;

 private:
  struct Merge {
    int rank;
    TokenId merged;
  };
  static constexpr TokenId kNoToken = -1;
  static constexpr int kNoRank = std::numeric_limits<int>::max();

  static uint64_t Key(TokenId left, TokenId right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  const Merge* Find(TokenId left, TokenId right) const {
    const auto found = merges_.find(Key(left, right));
    return found == merges_.end() ? nullptr : &found->second;
  }
  void EncodeShort(absl::string_view piece, std::vector<TokenId>* out) const;
  void EncodeLong(absl::string_view piece, std::vector<TokenId>* out) const;

  std::array<TokenId, 256> bytes_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
};

}  // namespace gantry::engine::text
