#include "billing/receipt/key_ring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "billing/receipt/ed25519.h"
#include "billing/receipt/receipt.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

class KeyRingTest : public testing::Test {
 protected:
  KeyRingTest() {
    char name[] = "/tmp/gantry-ring-XXXXXX";
    dir_ = mkdtemp(name);
  }
  ~KeyRingTest() override { std::filesystem::remove_all(dir_); }
  std::string path() const { return dir_ + "/receipt.keys"; }
  std::unique_ptr<ReceiptKeyRing> Open() {
    absl::StatusOr<std::unique_ptr<ReceiptKeyRing>> ring = ReceiptKeyRing::Open(path());
    EXPECT_TRUE(ring.ok()) << ring.status();
    return *std::move(ring);
  }
  std::string dir_;
};

TEST_F(KeyRingTest, OldKeysStayAndSignAsBefore) {
  std::string first, second, signature, nonce;
  {
    const auto ring = Open();
    first = *ring->AddKey();
    signature = *ring->Sign(ReceiptKeyId(first), "message");
    nonce = *ring->Nonce("leaf 1");
    second = *ring->AddKey();
  }
  EXPECT_NE(first, second);
  const auto ring = Open();
  EXPECT_TRUE(ring->Has(ReceiptKeyId(first)) && ring->Has(ReceiptKeyId(second)));
  EXPECT_EQ(*ring->Sign(ReceiptKeyId(first), "message"), signature);
  EXPECT_TRUE(Ed25519Verify(first, "message", signature));
  EXPECT_EQ(*ring->Nonce("leaf 1"), nonce);
  EXPECT_NE(*ring->Nonce("leaf 2"), nonce);
}

TEST_F(KeyRingTest, TheFileIsItsOwnersAlone) {
  Open()->AddKey().IgnoreError();
  struct stat info {};
  ASSERT_EQ(stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  chmod(path().c_str(), 0640);
  EXPECT_TRUE(absl::IsPermissionDenied(ReceiptKeyRing::Open(path()).status()));
}

TEST_F(KeyRingTest, WithoutTheFileItSaysWhatToDo) {
  const auto ring = Open();
  EXPECT_FALSE(std::filesystem::exists(path())) << "made only with a key";
  for (const absl::Status& status : {ring->Sign("k", "m").status(), ring->Nonce("n").status()}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("restore the file from a backup"));
  }
}

TEST_F(KeyRingTest, ADamagedFileIsRefusedByItsLine) {
  Open()->AddKey().IgnoreError();
  std::string content;
  std::getline(std::ifstream(path()), content, '\0');
  const auto problem = [&](const std::string& text) {
    std::ofstream(path()) << text;
    return std::string(ReceiptKeyRing::Open(path()).status().message());
  };
  EXPECT_THAT(problem(content + "ed25519 1234\n"), HasSubstr("receipt.keys:3: expected"));
  EXPECT_THAT(problem("x" + content), HasSubstr("receipt.keys:1: expected"));
  EXPECT_THAT(problem(content.substr(content.find('\n') + 1)), HasSubstr("the line `blinding …` is missing"));
  EXPECT_EQ(problem(content), "");
}

// A key whose file could not be written must not sign anything.
TEST_F(KeyRingTest, AKeyThatCannotBeKeptIsNoKey) {
  const auto ring = Open();
  std::filesystem::create_directory(path() + ".part");
  EXPECT_TRUE(absl::IsPermissionDenied(ring->AddKey().status()));
  EXPECT_FALSE(std::filesystem::exists(path()));
  std::filesystem::remove(path() + ".part");
  EXPECT_TRUE(ring->AddKey().ok());
}

}  // namespace
}  // namespace gantry::billing
