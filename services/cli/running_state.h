// What the supervisor wrote down about the running installation (D/state.json), as the CLI reads it.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "services/cli/data_dir.h"

namespace gantry::cli {

struct RunningProcess {
  int pid = 0;  // 0: not running at the moment
  int starts = 0;
  std::string last_exit;  // "killed by signal 9", "exit code 1"; empty: never ended
  std::string metrics;    // URL
};

struct RunningState {
  int supervisor_pid = 0;
  std::string endpoint;  // "http://127.0.0.1:8080"
  std::string model;
  std::map<std::string, RunningProcess> processes;
};

// FAILED_PRECONDITION when nothing runs on the data dir or the file is not there yet.
absl::StatusOr<RunningState> ReadRunningState(const DataDir& data_dir);

}  // namespace gantry::cli
