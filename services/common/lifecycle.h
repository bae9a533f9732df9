// Start and end of a process: SIGTERM and SIGINT begin a drain, a second one ends the process at once.
//
//   int main(int argc, char** argv) {
//     Lifecycle lifecycle;             // first thing in main, before any thread: threads inherit the blocked signals
//     … start everything …
//     lifecycle.SetReady(true);
//     DrainRequestInfo drain = lifecycle.WaitForDrain();
//     … stop admitting, finish within drain.budget, flush …
//     return 0;
//   }
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace gantry {

// Version of this build, "0.1.0".
std::string BuildVersion();

// Prints "gantry-<process>: <what is wrong>" on stderr, one line, and returns 2, the exit code for configuration and
// start errors (the supervisor does not retry those for ever).
int ExitWithError(const std::string& process, const absl::Status& status);

struct DrainRequestInfo {
  std::string reason;  // "SIGTERM", "SIGINT", "Process.Drain"
  absl::Duration budget;
};

class Lifecycle {
 public:
  // Blocks SIGTERM and SIGINT in the calling thread, ignores SIGPIPE, limits malloc to two arenas (idle memory is a
  // promise), and starts the thread that waits for signals.
  explicit Lifecycle(absl::Duration default_drain_budget = absl::Seconds(25));
  ~Lifecycle();
  Lifecycle(const Lifecycle&) = delete;
  Lifecycle& operator=(const Lifecycle&) = delete;

  // Begins the drain; the first request wins. Zero budget: the default. Thread-safe.
  void RequestDrain(std::string reason, absl::Duration budget = absl::ZeroDuration());
  // Blocks until a drain is requested.
  DrainRequestInfo WaitForDrain();
  bool draining() const { return draining_.load(std::memory_order_acquire); }

  // Ready = admits work. False until set, and never true again once draining.
  void SetReady(bool ready) { ready_.store(ready, std::memory_order_release); }
  bool ready() const { return ready_.load(std::memory_order_acquire) && !draining(); }
  absl::Duration Uptime() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::atomic<bool> draining_{false};
  std::atomic<bool> ready_{false};
};

}  // namespace gantry
