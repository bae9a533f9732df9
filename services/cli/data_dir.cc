#include "services/cli/data_dir.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::cli {
namespace {

// A unix socket's path must fit sockaddr_un (108 bytes with the terminating zero).
constexpr size_t kSocketPathMax = 107;
constexpr size_t kTokenBytes = 32;

absl::Status MakeDirectory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat("cannot create directory ", path, ": ", error.message(),
                                                    "; choose a writable one with --data-dir"));
  }
  if (chmod(path.c_str(), 0700) != 0 || access(path.c_str(), W_OK | X_OK) != 0) {
    return absl::PermissionDeniedError(absl::StrCat("directory ", path, " is not writable: ", std::strerror(errno),
                                                    "; choose another with --data-dir"));
  }
  return absl::OkStatus();
}

// Written under a temporary name and linked into place: a crash leaves no half token, a race leaves the first one.
absl::Status MakeToken(const std::string& path) {
  if (access(path.c_str(), F_OK) == 0) return absl::OkStatus();
  unsigned char bytes[kTokenBytes];
  if (RAND_bytes(bytes, sizeof(bytes)) != 1) return absl::InternalError("the system has no random numbers");
  const std::string text =
      absl::StrCat(absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(bytes), sizeof(bytes))), "\n");
  const std::string temporary = absl::StrCat(path, ".", getpid());
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  const bool written =
      fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && fsync(fd) == 0;
  const int saved_errno = errno;
  if (fd >= 0) close(fd);
  if (!written) {
    unlink(temporary.c_str());
    return absl::PermissionDeniedError(absl::StrCat("cannot write ", path, ": ", std::strerror(saved_errno)));
  }
  link(temporary.c_str(), path.c_str());
  unlink(temporary.c_str());
  return absl::OkStatus();
}

}  // namespace

absl::Status DataDir::Prepare() const {
  const std::string longest = root_ + "/run/billing.sock";
  if (longest.size() > kSocketPathMax) {
    return absl::InvalidArgumentError(absl::StrCat("data dir ", root_, " is too long: its sockets' paths take ",
                                                   longest.size(), " bytes, at most ", kSocketPathMax,
                                                   " are possible; choose a shorter --data-dir"));
  }
  for (const std::string& path : {root_, root_ + "/run", root_ + "/log", identity_dir()}) {
    GANTRY_RETURN_IF_ERROR(MakeDirectory(path));
  }
  for (const std::string& process : ProcessNames()) GANTRY_RETURN_IF_ERROR(MakeDirectory(state_dir(process)));
  GANTRY_RETURN_IF_ERROR(MakeToken(admin_key_file()));
  for (const char* identity : {"gateway", "router", "worker"}) {
    GANTRY_RETURN_IF_ERROR(MakeToken(absl::StrCat(identity_dir(), "/", identity, ".key")));
  }
  return absl::OkStatus();
}

std::string ResolveDataDir(const std::string& flag) {
  std::string chosen = flag;
  const auto environment = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (chosen.empty()) chosen = environment("GANTRY_DATA_DIR");
  if (chosen.empty()) {
    const std::string xdg = environment("XDG_DATA_HOME");
    if (!xdg.empty()) chosen = xdg + "/gantry";
  }
  if (chosen.empty()) {
    const std::string home = environment("HOME");
    chosen = (home.empty() ? std::string("/var/lib") : home + "/.local/share") + "/gantry";
  }
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(chosen, error);
  std::string path = error ? chosen : absolute.lexically_normal().string();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace gantry::cli
