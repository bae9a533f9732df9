#include "services/common/config.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gantry {
namespace {

using ::testing::HasSubstr;

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() {
    char pattern[] = "/tmp/gantry-config-XXXXXX";
    int fd = mkstemp(pattern);
    close(fd);
    file_ = pattern;
  }
  ~ConfigTest() override { unlink(file_.c_str()); }

  absl::StatusOr<bool> Parse(std::vector<const char*> arguments, std::vector<std::string> environment = {},
                             const std::string& toml = "") {
    std::ofstream(file_) << toml;
    for (std::string& entry : environment) entries_.push_back(entry.data());
    entries_.push_back(nullptr);
    environment_ = std::move(environment);
    config_ = std::make_unique<Config>("router", "tests.", entries_.data());
    config_->String("listen", &listen_, "where to listen").Required().Example("unix:/x");
    config_->Int("queue-limit", &queue_limit_, 0, 1000, "how many may wait");
    config_->Double("ratio", &ratio_, 0, 1, "a share");
    config_->Bool("verbose-output", &verbose_, "say more");
    config_->Choice("durability", &durability_, {"fsync", "write"}, "what a reply waits for");
    arguments.insert(arguments.begin(), "gantry-router");
    if (!toml.empty()) {
      arguments.push_back("--config");
      arguments.push_back(file_.c_str());
    }
    return config_->Parse(static_cast<int>(arguments.size()), arguments.data());
  }

  std::string file_;
  std::vector<char*> entries_;
  std::vector<std::string> environment_;
  std::unique_ptr<Config> config_;
  std::string listen_, durability_ = "fsync";
  int64_t queue_limit_ = 7;
  double ratio_ = 0.5;
  bool verbose_ = false;
};

TEST_F(ConfigTest, FlagBeatsVariableBeatsFileBeatsDefault) {
  struct Case {
    std::vector<const char*> flags;
    std::vector<std::string> environment;
    std::string toml;
    int64_t value;
    std::string origin;
  };
  const std::string toml = "listen = \"unix:/a\"\nqueue-limit = 1\n";
  for (const Case& c :
       std::vector<Case>{{{"--queue-limit", "3"}, {"GANTRY_ROUTER_QUEUE_LIMIT=2"}, toml, 3, "flag --queue-limit"},
                         {{"--queue-limit=3"}, {}, toml, 3, "flag --queue-limit"},
                         {{}, {"GANTRY_ROUTER_QUEUE_LIMIT=2"}, toml, 2, "variable GANTRY_ROUTER_QUEUE_LIMIT"},
                         {{}, {}, toml, 1, "file " + file_ + ":2"},
                         {{"--listen", "unix:/b"}, {"GANTRY_BILLING_X=1"}, "", 7, "default"}}) {
    queue_limit_ = 7;
    listen_ = "";
    entries_.clear();
    absl::StatusOr<bool> run = Parse(c.flags, c.environment, c.toml);
    ASSERT_TRUE(run.ok()) << run.status();
    EXPECT_TRUE(*run);
    EXPECT_EQ(queue_limit_, c.value);
    EXPECT_EQ(config_->OriginOf("queue-limit"), c.origin);
  }
}

TEST_F(ConfigTest, EveryKindComesFromEverySource) {
  ASSERT_TRUE(Parse({"--listen", "unix:/x", "--verbose-output", "--ratio", "0.25", "--durability", "write"}).ok());
  EXPECT_TRUE(verbose_);
  EXPECT_EQ(ratio_, 0.25);
  EXPECT_EQ(durability_, "write");
  entries_.clear();
  ASSERT_TRUE(Parse({"--verbose-output=false"}, {"GANTRY_ROUTER_LISTEN=unix:/y", "GANTRY_ROUTER_RATIO=1e-1"},
                    "verbose-output = true\ndurability = \"fsync\"\nratio = 1\n")
                  .ok());
  EXPECT_FALSE(verbose_);
  EXPECT_EQ(listen_, "unix:/y");
  EXPECT_EQ(ratio_, 0.1);
  EXPECT_EQ(durability_, "fsync");
}

TEST_F(ConfigTest, MistakesNameSourceExpectationAndNearestMatch) {
  struct Case {
    std::vector<const char*> flags;
    std::vector<std::string> environment;
    std::string toml;
    std::string message;
  };
  for (const Case& c : std::vector<Case>{
           {{"--queue-limi", "3"}, {}, "", "unknown flag '--queue-limi'; did you mean --queue-limit?"},
           {{"stray"}, {}, "", "unknown flag 'stray'; --help lists what there is"},
           {{"--queue-limit", "1001"},
            {},
            "",
            "flag --queue-limit: queue-limit: expected a whole number from 0 to 1000"},
           {{"--queue-limit", "2x"}, {}, "", "found '2x'"},
           {{"--durability", "none"}, {}, "", "expected fsync|write, found 'none'"},
           {{"--queue-limit", "1", "--queue-limit", "2"}, {}, "", "given 2 times"},
           {{"--ratio", "nan"}, {}, "", "expected a number from 0 to 1"},
           {{},
            {"GANTRY_ROUTER_QUEU_LIMIT=1"},
            "",
            "unknown variable GANTRY_ROUTER_QUEU_LIMIT; did you mean GANTRY_ROUTER_QUEUE_LIMIT?"},
           {{}, {"GANTRY_ROUTER_RATIO=2"}, "", "variable GANTRY_ROUTER_RATIO: ratio"},
           {{}, {}, "\nqueue_limit = 3\n", ":2: unknown key 'queue_limit'; did you mean queue-limit?"},
           {{}, {}, "queue-limit = \"3\"\n", ":1: queue-limit: expected a whole number from 0 to 1000, found 3"},
           {{}, {}, "\n\nlisten = [1]\n", ":3: listen: expected text, found a table, array or date"},
           {{}, {}, "listen = \n", ":1: "},
           {{}, {}, "", "--listen is not set (where to listen); for example --listen unix:/x"},
           {{"--config", "/nonexistent.toml"}, {}, "", "config file /nonexistent.toml: cannot be read"}}) {
    listen_ = "";
    entries_.clear();
    absl::StatusOr<bool> run = Parse(c.flags, c.environment, c.toml);
    ASSERT_FALSE(run.ok()) << c.message;
    EXPECT_EQ(run.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(run.status().message()), HasSubstr(c.message));
  }
}

TEST_F(ConfigTest, HelpNamesEveryOptionAndWhereValuesComeFrom) {
  ::testing::internal::CaptureStdout();
  absl::StatusOr<bool> run = Parse({"--help"});
  std::string help = ::testing::internal::GetCapturedStdout();
  ASSERT_TRUE(run.ok());
  EXPECT_FALSE(*run);
  for (const char* part : {"--queue-limit N", "(from 0 to 1000) [7]", "--durability fsync|write", "[required]",
                           "GANTRY_ROUTER_LOG_LEVEL", "--print-config"}) {
    EXPECT_THAT(help, HasSubstr(part));
  }
}

TEST_F(ConfigTest, PrintedConfigurationIsAConfigurationFile) {
  ::testing::internal::CaptureStdout();
  ASSERT_TRUE(Parse({"--listen", "unix:/a \"b\\", "--ratio", "0.1", "--print-config"}).ok());
  std::string printed = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(printed, HasSubstr("queue-limit = 7  # default"));
  EXPECT_THAT(printed, HasSubstr("ratio = 0.1  # flag --ratio"));
  entries_.clear();
  absl::StatusOr<bool> run = Parse({}, {}, printed);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(listen_, "unix:/a \"b\\");
}

TEST_F(ConfigTest, CheckConfigChecksAndDoesNotRun) {
  ::testing::internal::CaptureStdout();
  absl::StatusOr<bool> run = Parse({"--listen", "unix:/a", "--check-config"});
  EXPECT_THAT(::testing::internal::GetCapturedStdout(), HasSubstr("configuration of gantry-router is good"));
  ASSERT_TRUE(run.ok());
  EXPECT_FALSE(*run);
  entries_.clear();
  listen_ = "";
  EXPECT_FALSE(Parse({"--check-config"}).ok());
}

}  // namespace
}  // namespace gantry
