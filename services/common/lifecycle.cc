#include "services/common/lifecycle.h"

#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "engine/base/check.h"
#include "services/common/log.h"

namespace gantry {
namespace {

absl::Duration MonotonicNow() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::DurationFromTimespec(now);
}

}  // namespace

std::string BuildVersion() {
  return GANTRY_VERSION;
}

int ExitWithError(const std::string& process, const absl::Status& status) {
  std::fprintf(stderr, "gantry-%s: %s\n", process.c_str(), std::string(status.message()).c_str());
  return 2;
}

struct Lifecycle::Impl {
  absl::Duration default_budget;
  absl::Duration started = MonotonicNow();
  int signal_fd = -1;
  int stop_fd = -1;
  std::thread thread;
  absl::Mutex mutex;
  std::optional<DrainRequestInfo> request ABSL_GUARDED_BY(mutex);
};

Lifecycle::Lifecycle(absl::Duration default_drain_budget) : impl_(std::make_unique<Impl>()) {
  impl_->default_budget = default_drain_budget;
  mallopt(M_ARENA_MAX, 2);
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  impl_->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  impl_->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  GANTRY_CHECK(impl_->signal_fd >= 0 && impl_->stop_fd >= 0, "a process that starts has file descriptors left");
  impl_->thread = std::thread([this] {
    int seen = 0;
    while (true) {
      pollfd fds[2] = {{impl_->signal_fd, POLLIN, 0}, {impl_->stop_fd, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
      if (fds[1].revents != 0) return;
      signalfd_siginfo info{};
      while (read(impl_->signal_fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
        const char* name = info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT";
        if (++seen > 1) {
          Log(LogLevel::kWarning, "second signal, ending at once", {{"signal", name}});
          _exit(1);
        }
        RequestDrain(name);
      }
    }
  });
}

Lifecycle::~Lifecycle() {
  uint64_t one = 1;
  [[maybe_unused]] ssize_t written = write(impl_->stop_fd, &one, sizeof(one));
  impl_->thread.join();
  close(impl_->signal_fd);
  close(impl_->stop_fd);
}

void Lifecycle::RequestDrain(std::string reason, absl::Duration budget) {
  absl::MutexLock lock(&impl_->mutex);
  if (impl_->request.has_value()) return;
  if (budget <= absl::ZeroDuration()) budget = impl_->default_budget;
  Log(LogLevel::kInfo, "draining", {{"reason", reason}, {"budget_ms", absl::ToInt64Milliseconds(budget)}});
  impl_->request = DrainRequestInfo{std::move(reason), budget};
  draining_.store(true, std::memory_order_release);
}

DrainRequestInfo Lifecycle::WaitForDrain() {
  absl::MutexLock lock(&impl_->mutex);
  impl_->mutex.Await(absl::Condition(
      +[](std::optional<DrainRequestInfo>* request) { return request->has_value(); }, &impl_->request));
  return *impl_->request;
}

absl::Duration Lifecycle::Uptime() const {
  return MonotonicNow() - impl_->started;
}

}  // namespace gantry
