// Where everything of one installation lives. The layout is the contract between `gantry up`, the four processes and
// the CLI; docs/operator.md shows it to people.
//
//   D/admin.key                 token of identity admin, 0600        D/identity/NAME.key   tokens of the processes,
//   0600 D/run/NAME.sock             internal listeners, 0600             D/log/NAME.log        one file per process
//   D/billing/ D/gateway/ D/worker/   state of each process          D/state.json          what runs now (supervisor
//   writes) D/lock                      held by the supervisor
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gantry::cli {

// The processes in the order in which they are started; stopping goes the other way round.
inline const std::vector<std::string>& ProcessNames() {
  static const std::vector<std::string> names = {"billing", "router", "worker", "gateway"};
  return names;
}

class DataDir {
 public:
  explicit DataDir(std::string root) : root_(std::move(root)) {}

  const std::string& root() const { return root_; }
  std::string admin_key_file() const { return root_ + "/admin.key"; }
  std::string identity_dir() const { return root_ + "/identity"; }
  std::string socket(const std::string& process) const { return "unix:" + root_ + "/run/" + process + ".sock"; }
  std::string log_file(const std::string& process) const { return root_ + "/log/" + process + ".log"; }
  std::string state_dir(const std::string& process) const { return root_ + "/" + process; }
  std::string lock_file() const { return root_ + "/lock"; }
  std::string state_file() const { return root_ + "/state.json"; }

  // Creates what is missing (0700, tokens 0600). PERMISSION_DENIED or INVALID_ARGUMENT name the path and what to do.
  absl::Status Prepare() const;

 private:
  std::string root_;
};

// --data-dir, else $GANTRY_DATA_DIR, else $XDG_DATA_HOME/gantry, else ~/.local/share/gantry. Made absolute, because
// processes are started with it.
std::string ResolveDataDir(const std::string& flag);

}  // namespace gantry::cli
