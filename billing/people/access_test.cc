#include "billing/people/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "billing/people/users.h"
#include "billing/testing/books.h"
#include "gantry/v1/admin.pb.h"
#include "gantry/v1/notification.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

const Secret& Pepper() {
  static const auto* pepper = new Secret(std::string(32, 'p'));
  return *pepper;
}

// house > north (reseller) > shop (tenant); house > south (reseller) > stall (tenant); house > demo (tenant).
class AccessTest : public testing::Test {
 protected:
  AccessTest() {
    books_.NewReseller("north", 0, 100'000);
    books_.NewReseller("south", 0, 100'000);
    books_.NewTenant("shop", 0, "north");
    books_.NewTenant("stall", 0, "south");
  }

  Caller As(const std::string& party, v1::UserRole role) {
    v1::CreateUserRequest request;
    request.set_party_name(party);
    request.set_email(absl::StrCat("u", ++users_, "@example.org"));
    request.set_role(role);
    return books_.Get<Caller>([&](Database& db) -> absl::StatusOr<Caller> {
      absl::StatusOr<UserWithToken> made = CreateUser(db, request, Caller(), Pepper(), books_.now_us());
      if (!made.ok()) return made.status();
      return CallerOf(db, Pepper(), made->token.Reveal());
    });
  }

  absl::Status Try(const Caller& caller, const google::protobuf::Message& request) {
    absl::Status status;
    books_.Do([&](Database& db) {
      status = Authorize(db, caller, request);
      return absl::OkStatus();
    });
    return status;
  }

  Books books_;
  int users_ = 0;
};

template <typename Request>
Request About(const std::string& party) {
  Request request;
  request.set_party_name(party);
  return request;
}

TEST_F(AccessTest, EachRoleMayWhatItIsFor) {
  const struct {
    v1::UserRole role;
    bool balance, usage, key, top_up, users;
  } cases[] = {
      {v1::USER_ROLE_OWNER, true, true, true, true, true},
      {v1::USER_ROLE_ADMIN, true, true, true, true, true},
      {v1::USER_ROLE_BILLING, true, true, false, true, false},
      {v1::USER_ROLE_DEVELOPER, false, true, true, false, false},
      {v1::USER_ROLE_AUDITOR, true, true, false, false, false},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(v1::UserRole_Name(c.role));
    const Caller caller = As("north", c.role);
    EXPECT_EQ(Try(caller, About<v1::GetBalanceRequest>("shop")).ok(), c.balance);
    EXPECT_EQ(Try(caller, About<v1::QueryUsageRequest>("shop")).ok(), c.usage);
    EXPECT_EQ(Try(caller, About<v1::CreateKeyRequest>("shop")).ok(), c.key);
    EXPECT_EQ(Try(caller, About<v1::TopUpRequest>("shop")).ok(), c.top_up);
    EXPECT_EQ(Try(caller, About<v1::CreateUserRequest>("shop")).ok(), c.users);
  }
}

TEST_F(AccessTest, AUserReachesItsOwnSubtreeAndNothingElse) {
  const struct {
    const char* party;
    const char* reaches[3];
    const char* not_these[3];
  } cases[] = {
      {"house", {"house", "north", "stall"}, {}},
      {"north", {"north", "shop"}, {"house", "south", "stall"}},
      {"shop", {"shop"}, {"north", "house", "demo"}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.party);
    const Caller caller = As(c.party, v1::USER_ROLE_AUDITOR);
    for (const char* party : c.reaches) {
      if (party == nullptr) continue;
      EXPECT_TRUE(Try(caller, About<v1::GetBalanceRequest>(party)).ok()) << party;
    }
    for (const char* party : c.not_these) {
      if (party == nullptr) continue;
      EXPECT_TRUE(absl::IsPermissionDenied(Try(caller, About<v1::GetBalanceRequest>(party)))) << party;
    }
  }
}

TEST_F(AccessTest, NobodyTopsUpItself) {
  const Caller owner = As("north", v1::USER_ROLE_OWNER);
  const absl::Status status = Try(owner, About<v1::TopUpRequest>("north"));
  EXPECT_TRUE(absl::IsPermissionDenied(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("a party that buys from yours"));
}

TEST_F(AccessTest, WhatDoesNotExistLooksLikeWhatIsOutOfReach) {
  const Caller owner = As("shop", v1::USER_ROLE_OWNER);
  EXPECT_EQ(Try(owner, About<v1::GetBalanceRequest>("nobody")), Try(owner, About<v1::GetBalanceRequest>("stall")));
}

TEST_F(AccessTest, AnEmptyNameIsTheHouse) {
  v1::ListPartiesRequest all;
  EXPECT_TRUE(Try(As("house", v1::USER_ROLE_AUDITOR), all).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(Try(As("north", v1::USER_ROLE_OWNER), all)));
  all.set_under_name("north");
  EXPECT_TRUE(Try(As("north", v1::USER_ROLE_AUDITOR), all).ok());
}

TEST_F(AccessTest, MarginsAreTheSellersOwn) {
  v1::MarginReportRequest of_north;
  of_north.set_seller_name("north");
  EXPECT_TRUE(Try(As("north", v1::USER_ROLE_BILLING), of_north).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(Try(As("house", v1::USER_ROLE_OWNER), of_north)));
  EXPECT_TRUE(absl::IsPermissionDenied(Try(As("shop", v1::USER_ROLE_OWNER), of_north)));
  EXPECT_TRUE(absl::IsPermissionDenied(Try(As("shop", v1::USER_ROLE_OWNER), v1::MarginReportRequest())));
}

TEST_F(AccessTest, APriceIsSeenByWhoPaysItAndWhoSellsIt) {
  v1::PreviewPriceRequest of_north_to_shop;
  of_north_to_shop.set_plan_version_id(books_
                                           .PlanOf(books_.Get<Id16>([](Database& db) -> absl::StatusOr<Id16> {
                                             absl::StatusOr<PartyRow> shop = PartyByName(db, "shop");
                                             return shop.ok() ? absl::StatusOr<Id16>(shop->party_id) : shop.status();
                                           }))
                                           .ToBytes());
  for (const char* party : {"house", "north", "shop"}) {
    EXPECT_TRUE(Try(As(party, v1::USER_ROLE_OWNER), of_north_to_shop).ok()) << party;
  }
  for (const char* party : {"south", "stall", "demo"}) {
    EXPECT_TRUE(absl::IsPermissionDenied(Try(As(party, v1::USER_ROLE_OWNER), of_north_to_shop))) << party;
  }
}

TEST_F(AccessTest, HouseKeepingIsForTheHouse) {
  EXPECT_TRUE(Try(As("house", v1::USER_ROLE_OWNER), v1::AuditRequest()).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(Try(As("north", v1::USER_ROLE_OWNER), v1::AuditRequest())));
  EXPECT_TRUE(absl::IsPermissionDenied(Try(As("north", v1::USER_ROLE_OWNER), v1::ListOutboxRequest())));
}

TEST_F(AccessTest, WhatHasNoRuleIsTheAdministratorsAlone) {
  EXPECT_FALSE(HasAccessRule("ConfirmBackupRequest"));
  EXPECT_TRUE(absl::IsPermissionDenied(Try(As("house", v1::USER_ROLE_OWNER), v1::ConfirmBackupRequest())));
  EXPECT_TRUE(Try(Caller(), v1::ConfirmBackupRequest()).ok());
}

}  // namespace
}  // namespace gantry::billing
