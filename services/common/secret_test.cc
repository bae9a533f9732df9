#include "services/common/secret.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gantry {
namespace {

using ::testing::HasSubstr;

class SecretFileTest : public ::testing::Test {
 protected:
  SecretFileTest() {
    char pattern[] = "/tmp/gantry-secret-XXXXXX";
    path_ = std::string(mkdtemp(pattern)) + "/key";
  }
  ~SecretFileTest() override {
    unlink(path_.c_str());
    rmdir(path_.substr(0, path_.rfind('/')).c_str());
  }
  void Write(const std::string& content, mode_t mode) {
    std::ofstream(path_) << content;
    chmod(path_.c_str(), mode);
  }
  std::string path_;
};

TEST(SecretTest, EqualityLooksAtEveryByte) {
  Secret secret("correct horse");
  EXPECT_TRUE(secret.Equals("correct horse"));
  EXPECT_FALSE(secret.Equals("correct hors"));
  EXPECT_FALSE(secret.Equals("correct horsf"));
  EXPECT_FALSE(secret.Equals(""));
}

TEST(SecretTest, MovingLeavesNothingBehind) {
  Secret from(std::string(100, 'x'));
  Secret to = std::move(from);
  EXPECT_TRUE(from.empty());  // NOLINT(bugprone-use-after-move): what this test is about
  EXPECT_TRUE(to.Equals(std::string(100, 'x')));
}

TEST_F(SecretFileTest, TrailingWhiteSpaceIsCut) {
  Write("token\r\n\n", 0600);
  absl::StatusOr<Secret> secret = ReadSecretFile(path_);
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_TRUE(secret->Equals("token"));
}

TEST_F(SecretFileTest, AFileThatOthersMayReadIsRefusedWithTheCure) {
  Write("token", 0640);
  absl::Status status = ReadSecretFile(path_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("chmod 600"));
}

TEST_F(SecretFileTest, MissingEmptyAndLongFilesAreRefused) {
  EXPECT_EQ(ReadSecretFile(path_).status().code(), absl::StatusCode::kNotFound);
  Write("\n", 0600);
  EXPECT_THAT(std::string(ReadSecretFile(path_).status().message()), HasSubstr("empty"));
  Write(std::string(5000, 'x'), 0600);
  EXPECT_THAT(std::string(ReadSecretFile(path_).status().message()), HasSubstr("longer than"));
  EXPECT_FALSE(ReadSecretFile("/tmp").ok());
}

}  // namespace
}  // namespace gantry
