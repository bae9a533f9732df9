// What an empty installation needs before anybody can call it: a house, prices, a tenant with some credit, and a key.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "services/cli/admin_client.h"
#include "services/cli/data_dir.h"

namespace gantry::cli {

inline constexpr const char* kDemoTenant = "demo";

struct BootstrapResult {
  bool created_key = false;  // now; else it was there
  std::string key;           // the secret when it was created now, for showing it once
};

// Where the demo tenant's key lies, 0600.
std::string DemoKeyFile(const DataDir& data_dir);

// Does nothing when the key file is there and billing knows its key. Every step carries a fixed idempotency key and the
// key file is written last: a crash between two steps is repaired by doing it all again. Errors: billing's.
absl::StatusOr<BootstrapResult> Bootstrap(const AdminClient& client, const DataDir& data_dir);

}  // namespace gantry::cli
