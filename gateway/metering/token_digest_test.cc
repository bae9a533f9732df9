#include "gateway/metering/token_digest.h"

#include <vector>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"

namespace gantry::gateway {
namespace {

// By Python: hashlib.sha256(bytes(range(32)) + struct.pack('<3I', 1, 256, 4294967295)).hexdigest()
constexpr char kExpected[] = "a128e10f659a8abc2a46ce41252a423c6570f63bd02304b0d23f79f4a35c2eb9";

TEST(TokenDigestTest, IsThatOfTheNonceAndTheIdsHoweverTheyCome) {
  std::string nonce;
  for (char i = 0; i < 32; ++i) nonce.push_back(i);
  const std::vector<uint32_t> ids = {1, 256, 4294967295};
  TokenDigest at_once(nonce);
  at_once.Add(ids);
  EXPECT_EQ(absl::BytesToHexString(at_once.Finish()), kExpected);
  TokenDigest bit_by_bit(nonce);
  for (const uint32_t& id : ids) bit_by_bit.Add({&id, 1});
  EXPECT_EQ(absl::BytesToHexString(bit_by_bit.Finish()), kExpected);
}

}  // namespace
}  // namespace gantry::gateway
