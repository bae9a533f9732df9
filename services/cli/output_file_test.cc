#include "services/cli/output_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace gantry::cli {
namespace {

using ::testing::HasSubstr;

class OutputFileTest : public ::testing::Test {
 protected:
  OutputFileTest() {
    char pattern[] = "/tmp/gantry_output_XXXXXX";
    root_ = mkdtemp(pattern);
  }
  ~OutputFileTest() override { std::filesystem::remove_all(root_); }
  std::string Read(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
  std::string root_;
};

TEST_F(OutputFileTest, ReplacesAFileWholeAndLeavesNothingElse) {
  const std::string path = root_ + "/a.pdf";
  ASSERT_TRUE(WriteOutputFile(path, "a longer text").ok());
  ASSERT_TRUE(WriteOutputFile(path, std::string("\0short", 6)).ok());
  EXPECT_EQ(Read(path), std::string("\0short", 6));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(root_), std::filesystem::directory_iterator()), 1);
}

TEST_F(OutputFileTest, ANewFileHasTheModeAskedFor) {
  ASSERT_TRUE(WriteOutputFile(root_ + "/key", "k", 0600).ok());
  EXPECT_EQ(std::filesystem::status(root_ + "/key").permissions(), std::filesystem::perms(0600));
}

TEST_F(OutputFileTest, WritesToWhatIsNoRegularFile) {
  EXPECT_TRUE(WriteOutputFile("/dev/null", "gone").ok());
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST_F(OutputFileTest, NamesThePathThatCannotBeWritten) {
  const absl::Status status = WriteOutputFile(root_ + "/none/a.pdf", "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot write " + root_ + "/none/a.pdf: No such file"));
  EXPECT_FALSE(WriteOutputFile(root_, "x").ok()) << "a directory";
}

TEST_F(OutputFileTest, ADashIsTheStandardOutput) {
  std::ostringstream out;
  ASSERT_TRUE(WriteOutput("-", "text", out).ok());
  ASSERT_TRUE(WriteOutput("", " more", out).ok());
  EXPECT_EQ(out.str(), "text more");
}

}  // namespace
}  // namespace gantry::cli
