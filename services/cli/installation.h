// Which programs run on which ports with which flags: the shape of a one-machine installation.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/cli/data_dir.h"
#include "services/cli/supervisor.h"

namespace gantry::cli {

// HTTP at P, metrics of gateway, router, worker and billing at P+1 … P+4.
inline constexpr int kPortCount = 5;
inline constexpr int kDefaultPort = 8080;

struct InstallationOptions {
  int port = kDefaultPort;
  std::string model;       // directory; empty: the demo model
  std::string model_name;  // what clients ask for; empty: gantry-demo for the demo model, else the directory's name
};

// Everything `gantry up` has to know, looked up once. NOT_FOUND names the program or model that is not there.
absl::StatusOr<SupervisorOptions> PlanInstallation(const DataDir& data_dir, const InstallationOptions& options);

// Whether the five ports can be had. UNAVAILABLE names the first that cannot, and what it is for.
absl::Status CheckPorts(int port);

// Where this program lies; the four processes are its siblings.
std::string ProgramDirectory();

}  // namespace gantry::cli
