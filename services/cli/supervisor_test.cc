// The supervisor runs in a child process of the test, as it does in real life, over shell scripts instead of servers.
#include "services/cli/supervisor.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace gantry::cli {
namespace {

class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() {
    char pattern[] = "/tmp/gantry_supervisor_XXXXXX";
    root_ = mkdtemp(pattern);
    data_dir_ = std::make_unique<DataDir>(root_ + "/data");
    EXPECT_TRUE(data_dir_->Prepare().ok());
  }
  ~SupervisorTest() override {
    if (supervisor_ > 0) Finish();
    std::filesystem::remove_all(root_);
  }

  void Start(std::vector<ProcessSpec> processes) {
    supervisor_ = fork();
    if (supervisor_ == 0) {
      SupervisorOptions options;
      options.processes = std::move(processes);
      options.stop_timeout_ms = 2000;
      const absl::Status status = RunSupervisor(*data_dir_, options, [] {});
      std::ofstream(root_ + "/result") << status.message();
      _exit(status.ok() ? 0 : 1);
    }
  }

  int Finish() {
    kill(supervisor_, SIGTERM);
    return Wait();
  }
  int Wait() {
    int status = 0;
    waitpid(supervisor_, &status, 0);
    supervisor_ = 0;
    return WEXITSTATUS(status);
  }

  // The state of one process once `accepted` says yes to it.
  nlohmann::json Await(const std::string& process, const std::function<bool(const nlohmann::json&)>& accepted) {
    for (const absl::Time deadline = absl::Now() + absl::Seconds(10); absl::Now() < deadline;) {
      std::ifstream file(data_dir_->state_file());
      const nlohmann::json state = nlohmann::json::parse(file, nullptr, false);
      if (!state.is_discarded() && state["processes"].contains(process) && accepted(state["processes"][process])) {
        return state["processes"][process];
      }
      absl::SleepFor(absl::Milliseconds(10));
    }
    ADD_FAILURE() << "state of " << process << " never came";
    return {};
  }

  static ProcessSpec Shell(const std::string& name, const std::string& script) {
    return {name, {"/bin/sh", "-c", script}};
  }

  std::string root_;
  std::unique_ptr<DataDir> data_dir_;
  pid_t supervisor_ = 0;
};

TEST_F(SupervisorTest, KilledProcessIsStartedAgain) {
  Start({Shell("billing", "exec sleep 100")});
  const int first = Await("billing", [](const auto& s) { return s["pid"] != 0; })["pid"];
  kill(first, SIGKILL);
  const auto again = Await("billing", [&](const auto& s) { return s["pid"] != 0 && s["pid"] != first; });
  EXPECT_EQ(again["starts"], 2);
  EXPECT_EQ(again["last_exit"], "killed by signal 9");
  EXPECT_EQ(Finish(), 0);
}

TEST_F(SupervisorTest, RepeatedDeathBacksOff) {
  Start({Shell("router", "exit 1")});
  const absl::Time begin = absl::Now();
  Await("router", [](const auto& s) { return s["starts"] >= 4; });
  // 100 + 200 + 400 ms lie between four starts.
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(690));
}

TEST_F(SupervisorTest, RefusedConfigurationEndsTheStartWithTheProcessOwnWords) {
  Start({Shell("billing", "exec sleep 100"), Shell("gateway", "echo 'port 8080 is in use'; exit 2")});
  EXPECT_EQ(Wait(), 1);
  std::ifstream file(root_ + "/result");
  const std::string message((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  EXPECT_EQ(message, "gateway does not start: port 8080 is in use");
}

TEST_F(SupervisorTest, StoppingEndsProcessesLastStartedFirst) {
  const std::string script = "trap 'echo NAME >> " + root_ + "/order; exit 0' TERM; while :; do sleep 0.05; done";
  auto named = [&](const std::string& name) {
    std::string text = script;
    return Shell(name, text.replace(text.find("NAME"), 4, name));
  };
  Start({named("billing"), named("gateway")});
  Await("gateway", [](const auto& s) { return s["pid"] != 0; });
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(Finish(), 0);
  std::ifstream file(root_ + "/order");
  std::string first, second;
  file >> first >> second;
  EXPECT_EQ(first + " " + second, "gateway billing");
}

TEST_F(SupervisorTest, SecondSupervisorOnTheSameDataDirIsRefusedNamingTheFirst) {
  Start({Shell("billing", "exec sleep 100")});
  Await("billing", [](const auto& s) { return s["pid"] != 0; });
  const auto second = LockDataDir(*data_dir_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(second.status().message().find("pid " + std::to_string(supervisor_)), std::string::npos)
      << second.status().message();
  EXPECT_EQ(LockHolder(*data_dir_), supervisor_);
}

TEST_F(SupervisorTest, TokensAndDirectoriesAreForTheOwnerAlone) {
  struct stat info {};
  ASSERT_EQ(stat(data_dir_->admin_key_file().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(stat((data_dir_->identity_dir() + "/worker.key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(stat(data_dir_->root().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST(DataDirTest, TooLongPathIsRefusedBeforeAnySocketFails) {
  const DataDir data_dir("/tmp/" + std::string(120, 'x'));
  EXPECT_EQ(data_dir.Prepare().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace gantry::cli
