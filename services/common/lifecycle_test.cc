#include "services/common/lifecycle.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "services/common/backoff.h"

namespace gantry {
namespace {

// Signals are for whole processes: each case runs in a child. Returns its exit code.
int InChild(const std::function<int()>& body) {
  pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

TEST(LifecycleTest, SigtermAndSigintBeginADrain) {
  for (int number : {SIGTERM, SIGINT}) {
    EXPECT_EQ(InChild([number] {
                Lifecycle lifecycle(absl::Seconds(3));
                lifecycle.SetReady(true);
                bool was_ready = lifecycle.ready();
                kill(getpid(), number);
                DrainRequestInfo drain = lifecycle.WaitForDrain();
                bool good = was_ready && !lifecycle.ready() && drain.budget == absl::Seconds(3) &&
                            drain.reason == (number == SIGTERM ? "SIGTERM" : "SIGINT");
                return good ? 42 : 43;
              }),
              42);
  }
}

TEST(LifecycleTest, ASecondSignalEndsTheProcessAtOnce) {
  EXPECT_EQ(InChild([] {
              Lifecycle lifecycle;
              kill(getpid(), SIGTERM);
              lifecycle.WaitForDrain();
              kill(getpid(), SIGTERM);
              absl::SleepFor(absl::Seconds(10));
              return 0;
            }),
            1);
}

TEST(LifecycleTest, TheFirstDrainRequestWins) {
  EXPECT_EQ(InChild([] {
              Lifecycle lifecycle;
              std::thread other([&] { lifecycle.RequestDrain("Process.Drain", absl::Milliseconds(70)); });
              DrainRequestInfo drain = lifecycle.WaitForDrain();
              other.join();
              lifecycle.RequestDrain("again", absl::Seconds(9));
              return drain.budget == absl::Milliseconds(70) && lifecycle.WaitForDrain().reason == "Process.Drain" ? 42
                                                                                                                  : 43;
            }),
            42);
}

TEST(LifecycleTest, StartErrorsExitWithTwo) {
  EXPECT_EQ(ExitWithError("router", absl::UnavailableError("port in use")), 2);
}

TEST(BackoffTest, WaitsDoubleUpToTheLimitAndStartOver) {
  Backoff backoff(absl::Milliseconds(100), absl::Milliseconds(500));
  for (int whole_ms : {100, 200, 400, 500, 500}) {
    absl::Duration wait = backoff.Next();
    EXPECT_GE(wait, absl::Milliseconds(whole_ms) / 2);
    EXPECT_LE(wait, absl::Milliseconds(whole_ms));
  }
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Milliseconds(100));
}

}  // namespace
}  // namespace gantry
