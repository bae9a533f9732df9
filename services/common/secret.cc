#include "services/common/secret.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace gantry {

Secret& Secret::operator=(const Secret& other) {
  if (this != &other) {
    Wipe();
    value_ = other.value_;
  }
  return *this;
}

Secret& Secret::operator=(Secret&& other) noexcept {
  if (this != &other) {
    Wipe();
    value_ = other.value_;
    other.Wipe();
  }
  return *this;
}

void Secret::Wipe() {
  if (!value_.empty()) OPENSSL_cleanse(value_.data(), value_.size());
  value_.clear();
}

bool Secret::Equals(absl::string_view other) const {
  return value_.size() == other.size() && CRYPTO_memcmp(value_.data(), other.data(), value_.size()) == 0;
}

absl::StatusOr<Secret> ReadSecretFile(const std::string& path, size_t limit) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("secret file ", path));
  auto close_fd = absl::MakeCleanup([fd] { close(fd); });
  struct stat info {};
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("secret file ", path));
  if (!S_ISREG(info.st_mode))
    return absl::InvalidArgumentError(absl::StrCat("secret file ", path, ": not a regular file"));
  if ((info.st_mode & 077) != 0) {
    return absl::PermissionDeniedError(absl::StrFormat("secret file %s: mode is %04o, others may read it; chmod 600 %s",
                                                       path, info.st_mode & 07777, path));
  }
  std::string value(limit + 1, '\0');
  size_t size = 0;
  while (size < value.size()) {
    ssize_t got = read(fd, value.data() + size, value.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("secret file ", path));
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  if (size > limit)
    return absl::InvalidArgumentError(absl::StrCat("secret file ", path, ": longer than ", limit, " bytes"));
  value.resize(absl::StripTrailingAsciiWhitespace(absl::string_view(value.data(), size)).size());
  if (value.empty()) return absl::InvalidArgumentError(absl::StrCat("secret file ", path, ": empty"));
  return Secret(std::move(value));
}

}  // namespace gantry
