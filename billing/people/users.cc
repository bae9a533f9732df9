#include "billing/people/users.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "billing/outbox/target.h"
#include "billing/parties/party_tree.h"
#include "engine/base/status_macros.h"
#include "services/common/api_key.h"

namespace gantry::billing {
namespace {

constexpr size_t kNameLimit = 128;
constexpr int64_t kUsersOfParty = 1000;

// Columns as Read reads them.
#define USER_COLUMNS "u.user_id, p.name, u.email, u.name, u.role, u.created_us, u.disabled_us, u.token_id"

v1::User Read(const Rows& rows) {
  v1::User user;
  user.set_user_id(rows.Text(0));
  user.set_party_name(rows.Text(1));
  user.set_email(rows.Text(2));
  user.set_name(rows.Text(3));
  user.set_role(static_cast<v1::UserRole>(rows.Int(4)));
  user.set_created_us(rows.Int(5));
  user.set_disabled_us(rows.Int(6));
  user.set_token_id(rows.Text(7));
  return user;
}

absl::StatusOr<v1::User> UserById(Database& db, const std::string& user_id) {
  Rows rows =
      db.Query("SELECT " USER_COLUMNS " FROM user u JOIN party p USING (party_no) WHERE u.user_id = ?", Blob{user_id});
  if (!rows.Next()) return absl::NotFoundError("user_id: no such user");
  return Read(rows);
}

absl::Status CheckRole(v1::UserRole role, const Caller& caller) {
  if (role < v1::USER_ROLE_OWNER || role > v1::USER_ROLE_AUDITOR) {
    return absl::InvalidArgumentError("role: expected owner, admin, billing, developer or auditor");
  }
  if (role != v1::USER_ROLE_OWNER || caller.may_make_owners()) return absl::OkStatus();
  return absl::PermissionDeniedError("role: only an owner makes, changes or ends an owner");
}

// Who is changed: not disabled, and an owner only by an owner.
absl::StatusOr<v1::User> Changeable(Database& db, const std::string& user_id, const Caller& caller) {
  GANTRY_ASSIGN_OR_RETURN(v1::User user, UserById(db, user_id));
  if (user.disabled_us() != 0) return absl::FailedPreconditionError("user_id: the user is disabled for good");
  GANTRY_RETURN_IF_ERROR(CheckRole(user.role(), caller));
  return user;
}

absl::Status KeepsAnOwner(Database& db, const v1::User& user) {
  if (user.role() != v1::USER_ROLE_OWNER) return absl::OkStatus();
  Rows rows = db.Query(
      "SELECT count(*) FROM user u JOIN party p USING (party_no) "
      "WHERE p.name = ? AND u.role = 1 AND u.disabled_us = 0 AND u.user_id <> ?",
      user.party_name(), Blob{user.user_id()});
  if (rows.Next() && rows.Int(0) > 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("`", user.email(), "` is the last owner of `", user.party_name(), "`; make another one first"));
}

}  // namespace

absl::StatusOr<UserWithToken> CreateUser(Database& db, const v1::CreateUserRequest& request, const Caller& caller,
                                         const Secret& pepper, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
  if (party.status == v1::PARTY_STATUS_CLOSED) {
    return absl::FailedPreconditionError(absl::StrCat("party_name: `", party.name, "` is closed"));
  }
  const std::string email = absl::AsciiStrToLower(request.email());
  if (const absl::Status status = CheckMailAddress(email); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("email: ", status.message()));
  }
  if (request.name().size() > kNameLimit) {
    return absl::InvalidArgumentError(absl::StrCat("name: expected at most ", kNameLimit, " bytes"));
  }
  GANTRY_RETURN_IF_ERROR(CheckRole(request.role(), caller));
  {
    Rows rows =
        db.Query("SELECT count(*), coalesce(sum(email = ?), 0) FROM user WHERE party_no = ? AND disabled_us = 0", email,
                 party.party_no);
    if (rows.Next() && rows.Int(1) > 0) {
      return absl::AlreadyExistsError(absl::StrCat("email: `", party.name, "` has a user `", email, "` already"));
    }
    if (rows.Int(0) >= kUsersOfParty) {
      return absl::ResourceExhaustedError(absl::StrCat("`", party.name, "` has ", kUsersOfParty, " users already"));
    }
  }
  NewApiKey made = MakeApiKey(kUserTokenEnvironment);
  const Id16 user_id = NewTimeOrderedId();
  db.Execute(
      "INSERT INTO user (user_id, party_no, email, name, role, token_id, secret_hmac, created_us, disabled_us) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
      user_id, party.party_no, email, request.name(), static_cast<int64_t>(request.role()), made.public_id,
      Blob{HmacOfSecret(pepper, made.secret)}, now_us);
  GANTRY_ASSIGN_OR_RETURN(v1::User user, UserById(db, user_id.ToBytes()));
  return UserWithToken{std::move(user), std::move(made.text)};
}

absl::StatusOr<v1::ListUsersResponse> ListUsers(Database& db, const v1::ListUsersRequest& request) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, request.party_name()));
  v1::ListUsersResponse response;
  Rows rows = db.Query("SELECT " USER_COLUMNS
                       " FROM user u JOIN party p USING (party_no) WHERE u.party_no = ? ORDER BY u.user_no",
                       party.party_no);
  while (rows.Next()) *response.add_users() = Read(rows);
  return response;
}

absl::StatusOr<v1::User> SetUserRole(Database& db, const v1::SetUserRoleRequest& request, const Caller& caller) {
  GANTRY_ASSIGN_OR_RETURN(const v1::User user, Changeable(db, request.user_id(), caller));
  GANTRY_RETURN_IF_ERROR(CheckRole(request.role(), caller));
  if (request.role() != v1::USER_ROLE_OWNER) GANTRY_RETURN_IF_ERROR(KeepsAnOwner(db, user));
  db.Execute("UPDATE user SET role = ? WHERE user_id = ?", static_cast<int64_t>(request.role()),
             Blob{request.user_id()});
  return UserById(db, request.user_id());
}

absl::StatusOr<v1::User> DisableUser(Database& db, const v1::DisableUserRequest& request, const Caller& caller,
                                     int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(const v1::User user, Changeable(db, request.user_id(), caller));
  GANTRY_RETURN_IF_ERROR(KeepsAnOwner(db, user));
  db.Execute("UPDATE user SET disabled_us = ? WHERE user_id = ?", now_us, Blob{request.user_id()});
  return UserById(db, request.user_id());
}

absl::StatusOr<UserWithToken> RotateUserToken(Database& db, const v1::RotateUserTokenRequest& request,
                                              const Caller& caller, const Secret& pepper) {
  GANTRY_RETURN_IF_ERROR(Changeable(db, request.user_id(), caller).status());
  NewApiKey made = MakeApiKey(kUserTokenEnvironment);
  db.Execute("UPDATE user SET token_id = ?, secret_hmac = ? WHERE user_id = ?", made.public_id,
             Blob{HmacOfSecret(pepper, made.secret)}, Blob{request.user_id()});
  GANTRY_ASSIGN_OR_RETURN(v1::User user, UserById(db, request.user_id()));
  return UserWithToken{std::move(user), std::move(made.text)};
}

absl::StatusOr<v1::WhoAmIResponse> WhoAmI(Database& db, const Caller& caller) {
  v1::WhoAmIResponse response;
  if (!caller.administrator) {
    GANTRY_ASSIGN_OR_RETURN(*response.mutable_user(), UserById(db, caller.user_id.ToBytes()));
  }
  for (const Right right : kAllRights) {
    if (caller.administrator || RoleHas(caller.role, right)) response.add_rights(RightName(right));
  }
  return response;
}

void EraseUsers(Database& db, int64_t party_no, int64_t now_us) {
  db.Execute(
      "UPDATE user SET disabled_us = iif(disabled_us = 0, ?, disabled_us), email = '', name = '' WHERE party_no = ?",
      now_us, party_no);
}

}  // namespace gantry::billing
