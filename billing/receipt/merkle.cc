#include "billing/receipt/merkle.h"

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "services/common/digest.h"

namespace gantry::billing {
namespace {

constexpr absl::string_view kLeaf("\0", 1), kNode("\1", 1), kPadding("\2", 1);

std::string Node(absl::string_view left, absl::string_view right) {
  return Sha256(absl::StrCat(kNode, left, right));
}

// One level up, in place.
void Fold(std::vector<std::string>* level) {
  for (size_t i = 0; i + 1 < level->size(); i += 2) (*level)[i / 2] = Node((*level)[i], (*level)[i + 1]);
  level->resize(level->size() / 2);
}

bool IsPowerOfTwo(size_t n) {
  return n > 0 && (n & (n - 1)) == 0;
}

}  // namespace

std::string MerkleLeaf(absl::string_view nonce, absl::string_view receipt_hash) {
  return Sha256(absl::StrCat(kLeaf, nonce, receipt_hash));
}

std::string MerklePadding(absl::string_view nonce) {
  return Sha256(absl::StrCat(kPadding, nonce));
}

size_t MerkleSize(size_t receipts) {
  GANTRY_CHECK(receipts <= kMerkleLeavesMax, "a batch of receipts has its limit");
  size_t size = kMerkleLeavesMin;
  while (size < receipts) size *= 2;
  return size;
}

std::string MerkleRoot(std::vector<std::string> leaves) {
  GANTRY_CHECK(IsPowerOfTwo(leaves.size()), "leaves are padded to a power of two");
  while (leaves.size() > 1) Fold(&leaves);
  return leaves[0];
}

std::vector<std::string> MerklePath(std::vector<std::string> leaves, size_t index) {
  GANTRY_CHECK(IsPowerOfTwo(leaves.size()) && index < leaves.size(), "the leaf is in the tree");
  std::vector<std::string> path;
  for (; leaves.size() > 1; index /= 2) {
    path.push_back(leaves[index ^ 1]);
    Fold(&leaves);
  }
  return path;
}

std::string MerkleRootFrom(std::string leaf, size_t index, const std::vector<std::string>& path) {
  for (const std::string& neighbour : path) {
    leaf = index % 2 == 0 ? Node(leaf, neighbour) : Node(neighbour, leaf);
    index /= 2;
  }
  return leaf;
}

}  // namespace gantry::billing
