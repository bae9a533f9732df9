#include "services/cli/installation.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDemoModelName = "gantry-demo";
// From <root>/build/<preset>/bin up to <root>.
constexpr int kSourceTreeDepth = 4;

bool IsModel(const fs::path& path) {
  std::error_code error;
  return fs::exists(path / "config.json", error) || (path.extension() == ".gguf" && fs::exists(path, error));
}

absl::StatusOr<std::string> FindDemoModel(const fs::path& programs) {
  const fs::path installed = (programs / "../share/gantry/models/demo").lexically_normal();
  if (IsModel(installed)) return installed.string();
  fs::path at = programs;
  for (int i = 0; i < kSourceTreeDepth; ++i, at = at.parent_path()) {
    if (IsModel(at / "models/demo")) return (at / "models/demo").string();
  }
  return absl::NotFoundError(absl::StrCat("the demo model is neither at ", installed.string(), " nor above ",
                                          programs.string(), "; name a model directory with --model"));
}

absl::StatusOr<std::string> FindModel(const std::string& given, const fs::path& programs) {
  if (given.empty()) return FindDemoModel(programs);
  if (!IsModel(given)) {
    return absl::NotFoundError(absl::StrCat("model ", given,
                                            ": expected a directory with config.json, "
                                            "*.safetensors and tokenizer.json, or a .gguf file"));
  }
  std::error_code error;
  const fs::path absolute = fs::canonical(given, error);
  return error ? given : absolute.string();
}

}  // namespace

std::string ProgramDirectory() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  return error ? "." : self.parent_path().string();
}

absl::StatusOr<SupervisorOptions> PlanInstallation(const DataDir& data_dir, const InstallationOptions& options) {
  const fs::path programs = ProgramDirectory();
  GANTRY_ASSIGN_OR_RETURN(const std::string model, FindModel(options.model, programs));
  std::string model_name = options.model_name;
  if (model_name.empty()) model_name = options.model.empty() ? kDemoModelName : fs::path(model).filename().string();

  SupervisorOptions plan;
  plan.endpoint = absl::StrCat("http://127.0.0.1:", options.port);
  plan.metrics_port_base = options.port;
  plan.model = model_name;
  const auto metrics = [&](int offset) { return absl::StrCat("127.0.0.1:", options.port + offset); };
  const auto add = [&](const std::string& name, std::vector<std::string> flags) -> absl::Status {
    const std::string program = (programs / ("gantry-" + name)).string();
    if (access(program.c_str(), X_OK) != 0) {
      return absl::NotFoundError(
          absl::StrCat("program ", program, ": ", std::strerror(errno), "; build it (./dev build) or reinstall"));
    }
    std::vector<std::string> argv = {program,
                                     "--listen",
                                     data_dir.socket(name),
                                     "--identity-dir",
                                     data_dir.identity_dir(),
                                     "--admin-key-file",
                                     data_dir.admin_key_file()};
    argv.insert(argv.end(), flags.begin(), flags.end());
    plan.processes.push_back({name, std::move(argv)});
    return absl::OkStatus();
  };
  GANTRY_RETURN_IF_ERROR(add("billing", {"--data-dir", data_dir.state_dir("billing"), "--metrics", metrics(4)}));
  GANTRY_RETURN_IF_ERROR(add("router", {"--metrics", metrics(2)}));
  GANTRY_RETURN_IF_ERROR(add(
      "worker", {"--router", data_dir.socket("router"), "--billing", data_dir.socket("billing"), "--model", model,
                 "--model-name", model_name, "--state-dir", data_dir.state_dir("worker"), "--metrics", metrics(3)}));
  GANTRY_RETURN_IF_ERROR(add("gateway", {"--http", absl::StrCat("127.0.0.1:", options.port), "--router",
                                         data_dir.socket("router"), "--billing", data_dir.socket("billing"),
                                         "--state-dir", data_dir.state_dir("gateway"), "--metrics", metrics(1)}));
  return plan;
}

absl::Status CheckPorts(int port) {
  const char* const uses[kPortCount] = {"requests", "metrics of gateway", "metrics of router", "metrics of worker",
                                        "metrics of billing"};
  for (int i = 0; i < kPortCount; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // As the servers do: what lingers from connections of an earlier run is no obstacle, a listener is.
    const int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port + i));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool bound = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    const int saved_errno = errno;
    close(fd);
    if (!bound) {
      return absl::UnavailableError(
          absl::StrCat("port ", port + i, " of 127.0.0.1 (", uses[i], ") cannot be used: ", std::strerror(saved_errno),
                       "; free it or choose another P with --port, which takes P to P+", kPortCount - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace gantry::cli
