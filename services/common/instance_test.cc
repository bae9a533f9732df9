#include "services/common/instance.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gantry {
namespace {

using ::testing::HasSubstr;

class InstanceTest : public ::testing::Test {
 protected:
  InstanceTest() {
    char pattern[] = "/tmp/gantry-instance-XXXXXX";
    root_ = mkdtemp(pattern);
    dir_ = root_ + "/state";
  }
  ~InstanceTest() override { std::filesystem::remove_all(root_); }
  std::string root_, dir_;
};

TEST_F(InstanceTest, TheIdStaysAndTheEpochGrows) {
  const auto first = LoadInstance(dir_);
  const auto second = LoadInstance(dir_);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->id, second->id);
  EXPECT_LT(first->epoch, second->epoch);
}

TEST_F(InstanceTest, TheEpochGrowsWhenTheClockHasGoneBack) {
  ASSERT_TRUE(LoadInstance(dir_).ok());
  const uint64_t ahead = static_cast<uint64_t>(absl::ToUnixMicros(absl::Now() + absl::Hours(1000)));
  std::ofstream(dir_ + "/epoch") << ahead << "\n";
  const auto instance = LoadInstance(dir_);
  ASSERT_TRUE(instance.ok());
  EXPECT_EQ(instance->epoch, ahead + 1);
}

TEST_F(InstanceTest, DamagedFilesAreNamed) {
  ASSERT_TRUE(LoadInstance(dir_).ok());
  std::ofstream(dir_ + "/epoch") << "yesterday\n";
  EXPECT_THAT(std::string(LoadInstance(dir_).status().message()), HasSubstr("/epoch: expected a number"));
  std::ofstream(dir_ + "/id") << "xyz\n";
  EXPECT_THAT(std::string(LoadInstance(dir_).status().message()), HasSubstr("/id: "));
}

TEST_F(InstanceTest, ADirectoryThatCannotBeMadeIsNamed) {
  std::ofstream(dir_) << "a file\n";
  EXPECT_THAT(std::string(LoadInstance(dir_ + "/below").status().message()), HasSubstr("cannot be created"));
}

}  // namespace
}  // namespace gantry
