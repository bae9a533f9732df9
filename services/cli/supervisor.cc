#include "services/cli/supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/status_macros.h"
#include "services/common/log.h"

namespace gantry::cli {
namespace {

constexpr absl::Duration kBackoffFirst = absl::Milliseconds(100);
constexpr absl::Duration kBackoffLast = absl::Seconds(10);
constexpr absl::Duration kSettledAfter = absl::Seconds(10);
constexpr int kExitConfiguration = 2;
constexpr int64_t kLogTailBytes = 4096;

struct Child {
  const ProcessSpec* spec = nullptr;
  pid_t pid = 0;  // 0: not running
  absl::Time started;
  absl::Time start_at = absl::InfinitePast();  // when not running: next start
  absl::Duration backoff = kBackoffFirst;
  int starts = 0;
  std::string last_exit;
};

absl::StatusOr<pid_t> Spawn(const DataDir& data_dir, const ProcessSpec& spec) {
  // Everything that allocates happens before fork.
  std::vector<char*> argv;
  for (const std::string& argument : spec.argv) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const std::string log = data_dir.log_file(spec.name);
  const int log_fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log_fd < 0) return absl::PermissionDeniedError(absl::StrCat("cannot write ", log, ": ", std::strerror(errno)));
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    // A supervisor that is killed takes its processes along: they drain on SIGTERM.
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(0);
    dup2(null_fd, 0);
    dup2(log_fd, 1);
    dup2(log_fd, 2);
    execv(argv[0], argv.data());
    dprintf(2, "cannot run %s: %s\n", argv[0], std::strerror(errno));
    _exit(kExitConfiguration);
  }
  close(log_fd);
  close(null_fd);
  if (pid < 0)
    return absl::ResourceExhaustedError(absl::StrCat("cannot start ", spec.name, ": ", std::strerror(errno)));
  return pid;
}

struct flock WholeFile(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

std::string DescribeExit(int wait_status) {
  if (WIFSIGNALED(wait_status)) return absl::StrCat("killed by signal ", WTERMSIG(wait_status));
  return absl::StrCat("exit code ", WEXITSTATUS(wait_status));
}

// Written whole under another name, then renamed: readers never see half of it.
void WriteState(const DataDir& data_dir, const SupervisorOptions& options, const std::vector<Child>& children) {
  nlohmann::ordered_json state;
  state["supervisor_pid"] = getpid();
  state["endpoint"] = options.endpoint;
  state["model"] = options.model;
  for (size_t i = 0; i < children.size(); ++i) {
    const Child& child = children[i];
    nlohmann::ordered_json& entry = state["processes"][child.spec->name];
    entry["pid"] = child.pid;
    entry["starts"] = child.starts;
    entry["last_exit"] = child.last_exit;
  }
  const char* const metrics_order[] = {"gateway", "router", "worker", "billing"};
  for (int i = 0; i < 4; ++i) {
    state["processes"][metrics_order[i]]["metrics"] =
        absl::StrCat("http://127.0.0.1:", options.metrics_port_base + 1 + i, "/metrics");
  }
  const std::string temporary = data_dir.state_file() + ".new";
  std::ofstream(temporary) << state.dump(2) << "\n";
  rename(temporary.c_str(), data_dir.state_file().c_str());
}

// Asks all of a child's life to end and waits; SIGKILL after the bound.
void Stop(Child& child, int timeout_ms) {
  if (child.pid == 0) return;
  kill(child.pid, SIGTERM);
  const absl::Time deadline = absl::Now() + absl::Milliseconds(timeout_ms);
  int wait_status = 0;
  while (waitpid(child.pid, &wait_status, WNOHANG) == 0) {
    if (absl::Now() > deadline) {
      kill(child.pid, SIGKILL);
      waitpid(child.pid, &wait_status, 0);
      break;
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  child.last_exit = DescribeExit(wait_status);
  child.pid = 0;
}

}  // namespace

std::string LastLogLine(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return "";
  file.seekg(0, std::ios::end);
  const int64_t size = file.tellg();
  file.seekg(std::max<int64_t>(0, size - kLogTailBytes));
  std::string line, last;
  while (std::getline(file, line)) {
    if (!line.empty()) last = line;
  }
  return last;
}

// Open-file-description locks: they can be looked at without being taken, so that a `gantry status` can never make a
// start fail, and no child inherits them.
absl::StatusOr<int> LockDataDir(const DataDir& data_dir) {
  const int fd = open(data_dir.lock_file().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    return absl::PermissionDeniedError(absl::StrCat("cannot open ", data_dir.lock_file(), ": ", std::strerror(errno)));
  }
  struct flock whole = WholeFile(F_WRLCK);
  if (fcntl(fd, F_OFD_SETLK, &whole) != 0) {
    close(fd);
    return absl::FailedPreconditionError(absl::StrCat("data dir ", data_dir.root(), " is in use by gantry with pid ",
                                                      LockHolder(data_dir), "; stop it with `gantry down --data-dir ",
                                                      data_dir.root(), "` or choose another --data-dir"));
  }
  return fd;
}

int LockHolder(const DataDir& data_dir) {
  const int fd = open(data_dir.lock_file().c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  int pid = 0;
  struct flock whole = WholeFile(F_WRLCK);
  if (fcntl(fd, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK) {
    char text[32] = {};
    const ssize_t n = read(fd, text, sizeof(text) - 1);
    if (n <= 0 || !absl::SimpleAtoi(absl::string_view(text, n), &pid)) pid = 0;
  }
  close(fd);
  return pid;
}

absl::Status RunSupervisor(const DataDir& data_dir, const SupervisorOptions& options,
                           const std::function<void()>& on_started) {
  GANTRY_ASSIGN_OR_RETURN(const int lock_fd, LockDataDir(data_dir));
  const std::string pid_text = absl::StrCat(getpid(), "\n");
  if (ftruncate(lock_fd, 0) != 0 || pwrite(lock_fd, pid_text.data(), pid_text.size(), 0) < 0) {
    return absl::PermissionDeniedError(absl::StrCat("cannot write ", data_dir.lock_file(), ": ", std::strerror(errno)));
  }

  // The loop sleeps in sigtimedwait: a child's end or a request to stop wakes it, and nothing runs inside a signal
  // handler.
  sigset_t waited;
  sigemptyset(&waited);
  for (int signal_number : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&waited, signal_number);
  sigprocmask(SIG_BLOCK, &waited, nullptr);

  std::vector<Child> children;
  for (const ProcessSpec& spec : options.processes) {
    Child child;
    child.spec = &spec;
    children.push_back(child);
  }
  absl::Status result;
  bool announced = false;
  while (result.ok()) {
    bool changed = false;
    for (Child& child : children) {
      if (child.pid != 0 || absl::Now() < child.start_at) continue;
      absl::StatusOr<pid_t> pid = Spawn(data_dir, *child.spec);
      if (!pid.ok()) {
        result = pid.status();
        break;
      }
      child.pid = *pid;
      child.started = absl::Now();
      ++child.starts;
      changed = true;
      Log(LogLevel::kInfo, "process started",
          {{"name", child.spec->name}, {"pid", static_cast<int64_t>(child.pid)}, {"starts", child.starts}});
    }
    if (changed) WriteState(data_dir, options, children);
    if (!announced && result.ok()) {
      announced = true;
      on_started();
    }

    // A zombie that was reaped between two looks leaves no second signal, so the wait is bounded.
    const timespec patience = {0, 50'000'000};
    const int signal_number = sigtimedwait(&waited, nullptr, &patience);
    if (signal_number == SIGTERM || signal_number == SIGINT || signal_number == SIGHUP) break;

    int wait_status = 0;
    for (pid_t pid; (pid = waitpid(-1, &wait_status, WNOHANG)) > 0;) {
      auto child = std::find_if(children.begin(), children.end(), [pid](const Child& c) { return c.pid == pid; });
      if (child == children.end()) continue;
      const bool settled = absl::Now() - child->started > kSettledAfter;
      child->pid = 0;
      child->last_exit = DescribeExit(wait_status);
      if (settled) child->backoff = kBackoffFirst;
      if (!settled && child->starts == 1 && WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == kExitConfiguration) {
        result = absl::FailedPreconditionError(
            absl::StrCat(child->spec->name, " does not start: ", LastLogLine(data_dir.log_file(child->spec->name))));
      }
      Log(LogLevel::kWarning, "process ended",
          {{"name", child->spec->name},
           {"how", child->last_exit},
           {"start_again_ms", absl::ToInt64Milliseconds(child->backoff)}});
      child->start_at = absl::Now() + child->backoff;
      child->backoff = std::min(child->backoff * 2, kBackoffLast);
      WriteState(data_dir, options, children);
    }
  }
  Log(LogLevel::kInfo, "stopping all processes", {{"reason", std::string(result.message())}});
  // Gateway first: it stops admitting and finishes its streams while those behind it still answer.
  for (auto child = children.rbegin(); child != children.rend(); ++child) Stop(*child, options.stop_timeout_ms);
  WriteState(data_dir, options, children);
  close(lock_fd);
  return result;
}

}  // namespace gantry::cli
