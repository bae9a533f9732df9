#include "engine/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::engine {

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be opened"));
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a regular, non-empty file"));
  }
  void* data = mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int saved_errno = errno;
  close(fd);
  if (data == MAP_FAILED) return absl::ErrnoToStatus(saved_errno, absl::StrCat(path, ": cannot be mapped"));
  return std::shared_ptr<const MappedFile>(
      new MappedFile(path, static_cast<const char*>(data), static_cast<size_t>(info.st_size)));
}

MappedFile::~MappedFile() {
  munmap(const_cast<char*>(data_), size_);
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t bytes_max) {
  GANTRY_ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file, MappedFile::Open(path));
  if (file->bytes().size() > bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", file->bytes().size(), " bytes, at most ", bytes_max, " are accepted"));
  }
  return std::string(file->bytes());
}

}  // namespace gantry::engine
