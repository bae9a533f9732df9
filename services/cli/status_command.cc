// gantry status: what runs, and whether it serves. Exit code 0 only when every process is ready.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "services/cli/admin_client.h"
#include "services/cli/command.h"
#include "services/cli/running_state.h"
#include "services/cli/table.h"

namespace gantry::cli {
namespace {

constexpr absl::Duration kStatusTimeout = absl::Seconds(1);

std::string StateName(const absl::StatusOr<v1::StatusResponse>& status) {
  if (!status.ok()) return "not answering";
  if (!status->live()) return "stuck";
  if (!status->ready()) return "not ready";
  return status->healthy() ? "ready" : "unhealthy";
}

absl::StatusOr<int> Status(bool json, const Invocation& invocation) {
  const DataDir data_dir = invocation.data_dir();
  const absl::StatusOr<RunningState> state = ReadRunningState(data_dir);
  if (!state.ok()) {
    if (!json) return state.status();
    *invocation.out << nlohmann::ordered_json{{"running", false}, {"data_dir", data_dir.root()}}.dump(2) << "\n";
    return 1;
  }
  bool all_ready = true;
  nlohmann::ordered_json out = {{"running", true},
                                {"ready", true},
                                {"data_dir", data_dir.root()},
                                {"supervisor_pid", state->supervisor_pid},
                                {"endpoint", state->endpoint},
                                {"model", state->model},
                                {"processes", nlohmann::ordered_json::array()}};
  Table table({"PROCESS", "STATE", ">PID", ">STARTS", ">UP", "METRICS", "DETAIL"});
  for (const std::string& name : ProcessNames()) {
    const auto found = state->processes.find(name);
    const RunningProcess process = found == state->processes.end() ? RunningProcess() : found->second;
    GANTRY_ASSIGN_OR_RETURN(ProcessClient client, ProcessClient::Create(data_dir, name));
    const absl::StatusOr<v1::StatusResponse> status = client.Status(kStatusTimeout);
    const bool ready = status.ok() && status->live() && status->ready() && status->healthy();
    all_ready &= ready;
    nlohmann::ordered_json items = nlohmann::ordered_json::object();
    std::vector<std::string> details;
    uint64_t uptime_ms = 0;
    if (status.ok()) {
      uptime_ms = status->uptime_ms();
      for (const v1::StatusItem& item : status->items()) {
        items[item.name()] = item.value();
        details.push_back(absl::StrCat(item.name(), " ", item.value()));
      }
    }
    if (!process.last_exit.empty()) details.push_back(absl::StrCat("last ended: ", process.last_exit));
    table.Add({name, StateName(status), absl::StrCat(process.pid), absl::StrCat(process.starts),
               status.ok() ? absl::FormatDuration(absl::Seconds(uptime_ms / 1000)) : "-", process.metrics,
               absl::StrJoin(details, ", ")});
    out["processes"].push_back({{"process", name},
                                {"pid", process.pid},
                                {"starts", process.starts},
                                {"last_exit", process.last_exit},
                                {"state", StateName(status)},
                                {"live", status.ok() && status->live()},
                                {"ready", status.ok() && status->ready()},
                                {"healthy", status.ok() && status->healthy()},
                                {"uptime_ms", uptime_ms},
                                {"metrics", process.metrics},
                                {"items", items}});
  }
  out["ready"] = all_ready;
  if (json) {
    *invocation.out << out.dump(2) << "\n";
  } else {
    *invocation.out << (all_ready ? "serving " : "not ready: ") << state->model << " at " << state->endpoint
                    << "/v1, data dir " << data_dir.root() << ", supervisor pid " << state->supervisor_pid << "\n\n"
                    << table.Render();
  }
  return all_ready ? 0 : 1;
}

}  // namespace

void AddStatusCommand(CLI::App& app, Invocation& invocation) {
  auto json = std::make_shared<bool>(false);
  CLI::App* status =
      AddCommand(app, invocation, "status", "what runs; exit code 0 only when every process is ready",
                 "gantry status\ngantry status --json", [=, &invocation] { return Status(*json, invocation); });
  status->add_flag("--json", *json, "as JSON");
}

}  // namespace gantry::cli
