#include "billing/people/users.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "billing/testing/books.h"
#include "services/common/api_key.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

class UsersTest : public testing::Test {
 protected:
  absl::StatusOr<UserWithToken> Make(const std::string& email, v1::UserRole role, const Caller& caller = {}) {
    v1::CreateUserRequest request;
    request.set_party_name("demo");
    request.set_email(email);
    request.set_name("Somebody");
    request.set_role(role);
    return books_.Try<UserWithToken>(
        [&](Database& db) { return CreateUser(db, request, caller, pepper_, books_.now_us()); });
  }
  absl::StatusOr<Caller> CallerWith(const Secret& token) {
    return books_.Try<Caller>([&](Database& db) { return CallerOf(db, pepper_, token.Reveal()); });
  }
  absl::StatusOr<v1::User> Disable(const v1::User& user) {
    v1::DisableUserRequest request;
    request.set_user_id(user.user_id());
    return books_.Try<v1::User>([&](Database& db) { return DisableUser(db, request, Caller(), books_.now_us()); });
  }
  absl::StatusOr<v1::User> SetRole(const v1::User& user, v1::UserRole role, const Caller& caller = {}) {
    v1::SetUserRoleRequest request;
    request.set_user_id(user.user_id());
    request.set_role(role);
    return books_.Try<v1::User>([&](Database& db) { return SetUserRole(db, request, caller); });
  }
  // Well formed, and nobody's.
  static std::string MakeToken() { return std::string(MakeApiKey(kUserTokenEnvironment).text.Reveal()); }

  Books books_;
  const Secret pepper_{std::string(32, 'p')};
};

TEST_F(UsersTest, ATokenNamesItsUserUntilItIsReplaced) {
  const absl::StatusOr<UserWithToken> made = Make("Ada@Example.org", v1::USER_ROLE_OWNER);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->user.email(), "ada@example.org");
  EXPECT_TRUE(absl::StartsWith(made->token.Reveal(), "gk_user_"));
  const absl::StatusOr<Caller> caller = CallerWith(made->token);
  ASSERT_TRUE(caller.ok()) << caller.status();
  EXPECT_EQ(caller->party.name, "demo");
  EXPECT_EQ(caller->role, v1::USER_ROLE_OWNER);
  EXPECT_FALSE(caller->administrator);

  v1::RotateUserTokenRequest rotate;
  rotate.set_user_id(made->user.user_id());
  const absl::StatusOr<UserWithToken> rotated =
      books_.Try<UserWithToken>([&](Database& db) { return RotateUserToken(db, rotate, Caller(), pepper_); });
  ASSERT_TRUE(rotated.ok()) << rotated.status();
  EXPECT_TRUE(absl::IsUnauthenticated(CallerWith(made->token).status()));
  EXPECT_TRUE(CallerWith(rotated->token).ok());
}

TEST_F(UsersTest, TokensThatAreNoneAreRefused) {
  const absl::StatusOr<UserWithToken> made = Make("ada@example.org", v1::USER_ROLE_OWNER);
  ASSERT_TRUE(made.ok());
  const std::string right(made->token.Reveal());
  for (const std::string& token :
       {std::string("nonsense"), right + "a", right.substr(1), MakeToken(), std::string("gk_live_0123")}) {
    EXPECT_TRUE(absl::IsUnauthenticated(CallerWith(Secret(token)).status())) << token;
  }
}

TEST_F(UsersTest, ADisabledUserIsOutAtOnceAndItsAddressFree) {
  ASSERT_TRUE(Make("first@example.org", v1::USER_ROLE_OWNER).ok());
  const absl::StatusOr<UserWithToken> made = Make("ada@example.org", v1::USER_ROLE_BILLING);
  ASSERT_TRUE(made.ok());
  EXPECT_TRUE(absl::IsAlreadyExists(Make("ADA@example.org", v1::USER_ROLE_BILLING).status()));
  ASSERT_TRUE(Disable(made->user).ok());
  EXPECT_TRUE(absl::IsUnauthenticated(CallerWith(made->token).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(SetRole(made->user, v1::USER_ROLE_OWNER).status()));
  EXPECT_TRUE(Make("ada@example.org", v1::USER_ROLE_BILLING).ok());
}

TEST_F(UsersTest, TheLastOwnerStays) {
  const absl::StatusOr<UserWithToken> owner = Make("ada@example.org", v1::USER_ROLE_OWNER);
  ASSERT_TRUE(owner.ok());
  const absl::Status status = Disable(owner->user).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("the last owner of `demo`"));
  EXPECT_TRUE(absl::IsFailedPrecondition(SetRole(owner->user, v1::USER_ROLE_ADMIN).status()));
  ASSERT_TRUE(Make("bob@example.org", v1::USER_ROLE_OWNER).ok());
  EXPECT_TRUE(SetRole(owner->user, v1::USER_ROLE_ADMIN).ok());
}

TEST_F(UsersTest, OnlyOwnersMakeOrChangeOwners) {
  const absl::StatusOr<UserWithToken> owner = Make("ada@example.org", v1::USER_ROLE_OWNER);
  const absl::StatusOr<UserWithToken> admin = Make("bob@example.org", v1::USER_ROLE_ADMIN);
  const absl::StatusOr<Caller> as_admin = CallerWith(admin->token), as_owner = CallerWith(owner->token);
  ASSERT_TRUE(as_admin.ok() && as_owner.ok());
  EXPECT_TRUE(absl::IsPermissionDenied(Make("eve@example.org", v1::USER_ROLE_OWNER, *as_admin).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(SetRole(admin->user, v1::USER_ROLE_OWNER, *as_admin).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(SetRole(owner->user, v1::USER_ROLE_AUDITOR, *as_admin).status()));
  EXPECT_TRUE(Make("eve@example.org", v1::USER_ROLE_OWNER, *as_owner).ok());
}

TEST_F(UsersTest, WhatIsWrongIsNamed) {
  const struct {
    const char* email;
    v1::UserRole role;
    const char* message;
  } cases[] = {{"not an address", v1::USER_ROLE_OWNER, "email: "},
               {"a@b.example\r\nTo: x", v1::USER_ROLE_OWNER, "email: "},
               {"a@b.example", v1::USER_ROLE_UNSPECIFIED, "role: expected owner"}};
  for (const auto& c : cases) {
    const absl::Status status = Make(c.email, c.role).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST_F(UsersTest, ErasedUsersLeaveTheirIdsAlone) {
  const absl::StatusOr<UserWithToken> made = Make("ada@example.org", v1::USER_ROLE_OWNER);
  ASSERT_TRUE(made.ok());
  books_.Do([&](Database& db) {
    absl::StatusOr<PartyRow> party = PartyByName(db, "demo");
    EraseUsers(db, party->party_no, books_.now_us());
    return absl::OkStatus();
  });
  EXPECT_EQ(books_.Int("SELECT count(*) FROM user WHERE email = '' AND name = '' AND disabled_us > 0"), 1);
  EXPECT_TRUE(absl::IsUnauthenticated(CallerWith(made->token).status()));
}

}  // namespace
}  // namespace gantry::billing
