// Files that a command leaves behind.
#pragma once

#include <sys/types.h>

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace gantry::cli {

// `path` holds all of `bytes`, on disk, or what it held before: written beside it and renamed. What is there and is no
// regular file (a pipe, /dev/stdout) is written to. `mode` of a new file, before the umask. PERMISSION_DENIED names the
// path and the system's reason.
absl::Status WriteOutputFile(const std::string& path, absl::string_view bytes, mode_t mode = 0666);

// To the file, or to `out` when `path` is empty or "-".
absl::Status WriteOutput(const std::string& path, absl::string_view bytes, std::ostream& out);

}  // namespace gantry::cli
