// The Merkle tree over one batch of receipts (R12): whoever holds a receipt can be shown that it is under the root that
// was published, and learns nothing of the others.
//
//   leaf    = SHA-256(0x00 ‖ nonce of 32 bytes ‖ hash of the receipt)   the nonce keeps guesses from being checked
//   padding = SHA-256(0x02 ‖ nonce of 32 bytes)                         up to a power of two, at least 16
//   node    = SHA-256(0x01 ‖ left ‖ right)
//
// Leaves and padding stand in ascending order, so that a place in the tree says nothing about how many receipts there
// were before it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace gantry::billing {

inline constexpr size_t kMerkleLeavesMin = 16;
inline constexpr size_t kMerkleLeavesMax = size_t{1} << 18;

// Each 32 bytes.
std::string MerkleLeaf(absl::string_view nonce, absl::string_view receipt_hash);
std::string MerklePadding(absl::string_view nonce);

// Leaves that n receipts are padded to. REQUIRES: n <= kMerkleLeavesMax.
size_t MerkleSize(size_t receipts);

// REQUIRES of both: a power of two of leaves.
std::string MerkleRoot(std::vector<std::string> leaves);
// The neighbours from the leaf at `index` up to the root.
std::vector<std::string> MerklePath(std::vector<std::string> leaves, size_t index);

// The root that `leaf` at `index` leads to with these neighbours.
std::string MerkleRootFrom(std::string leaf, size_t index, const std::vector<std::string>& path);

}  // namespace gantry::billing
