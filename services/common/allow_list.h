// Who may call what: the whole table of the internal RPC surface (R16). What is not in it is denied.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"

namespace gantry {

// The identities that exist. A token or certificate for any other name is UNAUTHENTICATED.
inline constexpr absl::string_view kIdentities[] = {"gateway", "router", "worker", "admin"};

struct AllowRule {
  absl::string_view identity;  // caller
  absl::string_view server;    // process that serves the call: "billing", "router", "worker", "gateway"; "*": every one
  absl::string_view method;    // "gantry.v1.Fleet/Attach" or "gantry.v1.Credit/*"
};

const std::vector<AllowRule>& AllowList();

// `path` as on the wire: "/gantry.v1.Fleet/Attach".
bool IsAllowed(absl::string_view identity, absl::string_view server, absl::string_view path);

}  // namespace gantry
