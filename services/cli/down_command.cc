// gantry down: asks the supervisor to end everything, and waits.
#include <signal.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "services/cli/command.h"
#include "services/cli/running_state.h"
#include "services/cli/supervisor.h"

namespace gantry::cli {
namespace {

constexpr absl::Duration kSayEvery = absl::Seconds(3);
// Four processes of 30 s each, as the supervisor bounds them, and some.
constexpr absl::Duration kPatience = absl::Seconds(150);

std::string StillRunning(const DataDir& data_dir) {
  std::vector<std::string> names;
  if (const auto state = ReadRunningState(data_dir); state.ok()) {
    for (const auto& [name, process] : state->processes) {
      if (process.pid != 0 && kill(process.pid, 0) == 0) names.push_back(name);
    }
  }
  return names.empty() ? "the supervisor" : absl::StrJoin(names, ", ");
}

absl::StatusOr<int> Down(const Invocation& invocation) {
  const DataDir data_dir = invocation.data_dir();
  const int pid = LockHolder(data_dir);
  if (pid == 0) {
    *invocation.out << "nothing runs on " << data_dir.root() << "\n";
    return 0;
  }
  if (kill(pid, SIGTERM) != 0 && errno != ESRCH) {
    return absl::PermissionDeniedError(absl::StrCat("cannot stop pid ", pid, ": ", std::strerror(errno)));
  }
  const absl::Time begin = absl::Now();
  absl::Time say_at = begin + kSayEvery;
  while (LockHolder(data_dir) == pid) {
    if (absl::Now() - begin > kPatience) {
      return absl::DeadlineExceededError(absl::StrCat("pid ", pid, " has not ended after ",
                                                      absl::FormatDuration(kPatience), "; logs are in ",
                                                      data_dir.root(), "/log"));
    }
    if (absl::Now() >= say_at) {
      say_at = absl::Now() + kSayEvery;
      *invocation.err << "waiting for " << StillRunning(data_dir) << " to finish" << std::endl;
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  *invocation.out << "stopped\n";
  return 0;
}

}  // namespace

void AddDownCommand(CLI::App& app, Invocation& invocation) {
  AddCommand(app, invocation, "down", "finish what runs, then stop everything",
             "gantry down\ngantry down --data-dir /srv/gantry", [&invocation] { return Down(invocation); });
}

}  // namespace gantry::cli
