// A passphrase from a file or typed at the terminal; never from the command line, where others on the machine see it.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "services/common/secret.h"

namespace gantry::cli {

// `file`: as ReadSecretFile; empty: asks on the controlling terminal without showing it, `twice` for a new one.
// INVALID_ARGUMENT: no file and no terminal, or the two differ.
absl::StatusOr<Secret> ReadPassphrase(const std::string& file, bool twice);

}  // namespace gantry::cli
