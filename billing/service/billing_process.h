// For tests that kill: gantry-billing as a process of its own.
#pragma once

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "services/common/rpc_test_util.h"

extern char** environ;

namespace gantry::billing {

// Runs from its making until Kill; its books are in `data_dir`, or beside the sockets.
class BillingProcess {
 public:
  explicit BillingProcess(const TestIdentities& identities, std::string data_dir = "", std::string command_log = "") {
    if (data_dir.empty()) data_dir = identities.dir() + "/billing";
    std::vector<std::string> args = {GANTRY_BILLING_BINARY,
                                     "--listen=" + identities.Socket("billing"),
                                     "--metrics=127.0.0.1:0",
                                     "--data-dir=" + data_dir,
                                     "--identity-dir=" + identities.identity_dir(),
                                     "--admin-key-file=" + identities.admin_key_file(),
                                     "--log-level=error"};
    if (!command_log.empty()) args.push_back("--command-log=" + command_log);
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    if (posix_spawn(&pid_, argv[0], nullptr, nullptr, argv.data(), environ) != 0) std::abort();
  }
  ~BillingProcess() { Kill(); }
  BillingProcess(const BillingProcess&) = delete;
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
};

}  // namespace gantry::billing
