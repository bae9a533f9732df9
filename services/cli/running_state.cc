#include "services/cli/running_state.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "services/cli/admin_client.h"
#include "services/cli/supervisor.h"

namespace gantry::cli {

absl::StatusOr<RunningState> ReadRunningState(const DataDir& data_dir) {
  RunningState state;
  state.supervisor_pid = LockHolder(data_dir);
  if (state.supervisor_pid == 0) return NothingRuns(data_dir);
  std::ifstream file(data_dir.state_file());
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
  // The file of an earlier run stays until the supervisor has written its own.
  if (!json.is_object() || json.value("supervisor_pid", 0) != state.supervisor_pid || !json.contains("processes")) {
    return absl::FailedPreconditionError("gantry is just starting; ask again in a moment");
  }
  state.endpoint = json.value("endpoint", "");
  state.model = json.value("model", "");
  for (const auto& [name, entry] : json["processes"].items()) {
    RunningProcess& process = state.processes[name];
    process.pid = entry.value("pid", 0);
    process.starts = entry.value("starts", 0);
    process.last_exit = entry.value("last_exit", "");
    process.metrics = entry.value("metrics", "");
  }
  return state;
}

}  // namespace gantry::cli
