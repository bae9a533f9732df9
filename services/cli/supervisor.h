// Runs the processes of one machine: starts, watches, restarts with back-off, stops in order.
//
// The supervisor is a plain process of its own without threads and without gRPC, so that nothing it does can be in the
// way of fork. It writes D/state.json whenever what runs has changed; the CLI and the tests read pids from there. A
// process that dies is started again after 100 ms, doubling to 10 s; ten seconds of life reset that.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/data_dir.h"

namespace gantry::cli {

struct ProcessSpec {
  std::string name;               // "billing"
  std::vector<std::string> argv;  // argv[0] is the program's path
};

struct SupervisorOptions {
  std::string endpoint;       // for state.json: "http://127.0.0.1:8080"
  int metrics_port_base = 0;  // for state.json: metrics of gateway, router, worker, billing at base + 1 .. base + 4
  std::string model;
  std::vector<ProcessSpec> processes;  // in start order
  int stop_timeout_ms = 30'000;        // SIGTERM to SIGKILL, per process
};

// Exclusive right to run on a data dir, released when the file descriptor closes. FAILED_PRECONDITION names the holder.
absl::StatusOr<int> LockDataDir(const DataDir& data_dir);

// The pid that holds the lock, 0 when nobody does.
int LockHolder(const DataDir& data_dir);

// Runs until SIGTERM or SIGINT, then stops everything and returns. `on_started` is called once all are spawned; an
// error of a process that ends with exit code 2 (refused its configuration) before it ever lived 10 s is returned with
// its last log line.
absl::Status RunSupervisor(const DataDir& data_dir, const SupervisorOptions& options,
                           const std::function<void()>& on_started);

// The last non-empty line of a log file: what a process said before it died.
std::string LastLogLine(const std::string& path);

}  // namespace gantry::cli
