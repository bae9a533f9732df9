#include "services/cli/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace gantry::cli {
namespace {

// True when all was written and closed; errno says why not.
bool WriteAll(int fd, absl::string_view bytes, bool sync) {
  bool good = fd >= 0;
  while (good && !bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    good = written > 0;
    if (good) bytes.remove_prefix(static_cast<size_t>(written));
  }
  good = good && (!sync || fsync(fd) == 0);
  const int saved_errno = errno;
  if (fd >= 0 && close(fd) != 0 && good) return false;
  errno = saved_errno;
  return good;
}

}  // namespace

absl::Status WriteOutputFile(const std::string& path, absl::string_view bytes, mode_t mode) {
  struct stat found = {};
  const bool special = stat(path.c_str(), &found) == 0 && !S_ISREG(found.st_mode);
  const std::string temporary = special ? path : absl::StrCat(path, ".", getpid());
  const int flags = O_WRONLY | O_CLOEXEC | (special ? 0 : O_CREAT | O_TRUNC);
  const bool written = WriteAll(open(temporary.c_str(), flags, mode), bytes, /*sync=*/!special) &&
                       (special || rename(temporary.c_str(), path.c_str()) == 0);
  if (written) return absl::OkStatus();
  const int saved_errno = errno;
  if (!special) unlink(temporary.c_str());
  return absl::PermissionDeniedError(absl::StrCat("cannot write ", path, ": ", std::strerror(saved_errno)));
}

absl::Status WriteOutput(const std::string& path, absl::string_view bytes, std::ostream& out) {
  if (!path.empty() && path != "-") return WriteOutputFile(path, bytes);
  out << bytes;
  return absl::OkStatus();
}

}  // namespace gantry::cli
