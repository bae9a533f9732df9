// Users of parties (contract: service UserAdmin). Their tokens are kept as HMACs, like API keys.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "billing/people/access.h"
#include "billing/store/database.h"
#include "gantry/v1/people.pb.h"
#include "services/common/secret.h"

namespace gantry::billing {

struct UserWithToken {
  v1::User user;
  Secret token;
};

// Errors beside those of the contract: INVALID_ARGUMENT names the field; PERMISSION_DENIED when `caller` makes or
// changes an owner and is none; FAILED_PRECONDITION for a closed party or a disabled user.
absl::StatusOr<UserWithToken> CreateUser(Database& db, const v1::CreateUserRequest& request, const Caller& caller,
                                         const Secret& pepper, int64_t now_us);
absl::StatusOr<v1::ListUsersResponse> ListUsers(Database& db, const v1::ListUsersRequest& request);
absl::StatusOr<v1::User> SetUserRole(Database& db, const v1::SetUserRoleRequest& request, const Caller& caller);
absl::StatusOr<v1::User> DisableUser(Database& db, const v1::DisableUserRequest& request, const Caller& caller,
                                     int64_t now_us);
absl::StatusOr<UserWithToken> RotateUserToken(Database& db, const v1::RotateUserTokenRequest& request,
                                              const Caller& caller, const Secret& pepper);
absl::StatusOr<v1::WhoAmIResponse> WhoAmI(Database& db, const Caller& caller);

// Disables all users of a party and forgets who they were: names and addresses go, ids stay.
void EraseUsers(Database& db, int64_t party_no, int64_t now_us);

}  // namespace gantry::billing
