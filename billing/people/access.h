// Who may do what in the administration: the rights of roles, and which parties a user reaches.
//
// Every call to an administrative service is made by the administrator (who holds the installation's admin.key) or,
// with a token in the metadata `gantry-user`, for one user. A user reaches its own party and all below it in the tree,
// and there what its role allows. One table says for each request which right it takes and which of its fields names
// the party it is about; a request without a row is the administrator's alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"
#include "gantry/v1/people.pb.h"
#include "google/protobuf/message.h"
#include "services/common/secret.h"

namespace gantry::billing {

enum class Right {
  kSee,      // parties, balances, prices, invoices, users
  kUsage,    // usage, keys, receipts
  kKeys,     // make and revoke keys
  kParties,  // make, suspend and close parties
  kPrices,   // publish prices, subscribe parties, quote
  kMoney,    // top up, invoice, book payments
  kUsers,    // make users and change roles
  kNotify,   // say where messages go
  kHouse,    // what concerns the whole house: audits, corrections, its messages
};
inline constexpr Right kAllRights[] = {Right::kSee,   Right::kUsage, Right::kKeys,   Right::kParties, Right::kPrices,
                                       Right::kMoney, Right::kUsers, Right::kNotify, Right::kHouse};
const char* RightName(Right right);  // "see", …
bool RoleHas(v1::UserRole role, Right right);

struct Caller {
  bool administrator = true;
  // Of a user:
  Id16 user_id;
  v1::UserRole role = v1::USER_ROLE_UNSPECIFIED;
  PartyRow party;
  std::string actor = "admin";  // for the audit log; a user's is its id, since names can be erased
  bool may_make_owners() const { return administrator || role == v1::USER_ROLE_OWNER; }
};

// Whose token it is; the administrator's when it is empty. UNAUTHENTICATED: malformed, unknown, disabled, or its party
// is closed; takes the same time for a wrong secret as for an unknown id.
absl::StatusOr<Caller> CallerOf(Database& db, const Secret& pepper, absl::string_view token);

// PERMISSION_DENIED says which right is missing or which party is out of reach; a thing that does not exist is told as
// one that is out of reach.
absl::Status Authorize(Database& db, const Caller& caller, const google::protobuf::Message& request);

// Whether a row of the table is about this request: tests ask it for every method of every service.
bool HasAccessRule(absl::string_view request_name);

}  // namespace gantry::billing
