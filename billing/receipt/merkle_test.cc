#include "billing/receipt/merkle.h"

#include <gtest/gtest.h>

#include "services/common/digest.h"

namespace gantry::billing {
namespace {

std::vector<std::string> Leaves(size_t size) {
  std::vector<std::string> leaves;
  for (size_t i = 0; i < size; ++i) leaves.push_back(MerkleLeaf(std::string(32, static_cast<char>(i)), Sha256("r")));
  return leaves;
}

TEST(Merkle, RootOfTwoIsTheHashOfBoth) {
  const std::vector<std::string> leaves = Leaves(2);
  EXPECT_EQ(MerkleRoot(leaves), Sha256("\x01" + leaves[0] + leaves[1]));
  EXPECT_EQ(leaves[1], Sha256(std::string(1, '\0') + std::string(32, '\x01') + Sha256("r")));
}

TEST(Merkle, EveryLeafOfEverySizeLeadsToTheRoot) {
  for (size_t size = 1; size <= 64; size *= 2) {
    const std::vector<std::string> leaves = Leaves(size);
    const std::string root = MerkleRoot(leaves);
    for (size_t i = 0; i < size; ++i) {
      const std::vector<std::string> path = MerklePath(leaves, i);
      EXPECT_EQ(MerkleRootFrom(leaves[i], i, path), root) << i << " of " << size;
      if (size > 1) {
        EXPECT_NE(MerkleRootFrom(leaves[i], i ^ 1, path), root) << i << " of " << size;
        EXPECT_NE(MerkleRootFrom(leaves[i ^ 1], i, path), root) << i << " of " << size;
      }
    }
  }
}

TEST(Merkle, SizesArePowersOfTwoFrom16On) {
  const struct { size_t receipts, size; } cases[] = {{1, 16}, {16, 16}, {17, 32}, {1000, 1024}, {1 << 18, 1 << 18}};
  for (const auto& c : cases) EXPECT_EQ(MerkleSize(c.receipts), c.size);
}

// A node taken for a leaf, or padding for a receipt, would let somebody prove what was never there.
TEST(Merkle, LeavesNodesAndPaddingAreDifferentKinds) {
  const std::string a(32, 'a'), b(32, 'b');
  EXPECT_NE(MerkleLeaf(a, b), MerkleRootFrom(a, 0, {b}));
  EXPECT_NE(MerklePadding(a), MerkleLeaf(a, ""));
}

}  // namespace
}  // namespace gantry::billing
