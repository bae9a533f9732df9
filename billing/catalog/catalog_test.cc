#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "absl/strings/match.h"
#include "billing/catalog/admin_log.h"
#include "billing/catalog/keys.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/plans.h"
#include "billing/testing/books.h"
#include "services/common/api_key.h"

namespace gantry::billing {
namespace {

const Secret kPepper(std::string(32, 'p'));

absl::Status Create(Books& books, const std::function<void(v1::CreatePartyRequest*)>& change) {
  v1::CreatePartyRequest request;
  request.set_kind(v1::PARTY_KIND_TENANT);
  request.set_name("acme");
  change(&request);
  return books.store().WriteAndWait([&](Database& db) { return CreateParty(db, request, books.now_us()).status(); });
}

TEST(Parties, RefuseWhatCannotBe) {
  Books books;
  struct Case {
    const char* name;
    std::function<void(v1::CreatePartyRequest*)> change;
    absl::StatusCode code;
    const char* says;
  };
  for (const Case& c : std::vector<Case>{
           {"upper case", [](auto* r) { r->set_name("Acme"); }, absl::StatusCode::kInvalidArgument, "a-z"},
           {"empty name", [](auto* r) { r->set_name(""); }, absl::StatusCode::kInvalidArgument, "1..64"},
           {"name taken", [](auto* r) { r->set_name("demo"); }, absl::StatusCode::kAlreadyExists, "`demo`"},
           {"kind", [](auto* r) { r->clear_kind(); }, absl::StatusCode::kInvalidArgument, "kind"},
           {"second house", [](auto* r) { r->set_kind(v1::PARTY_KIND_HOUSE); }, absl::StatusCode::kAlreadyExists,
            "house"},
           {"currency", [](auto* r) { r->set_currency("eur"); }, absl::StatusCode::kInvalidArgument, "ISO 4217"},
           {"no plan", [](auto* r) { r->set_plan("gold"); }, absl::StatusCode::kFailedPrecondition, "`gold`"},
           {"plan in another currency", [](auto* r) { r->set_currency("USD"); }, absl::StatusCode::kFailedPrecondition,
            "USD"},
           {"credit limit", [](auto* r) { r->set_credit_limit_micro(-1); }, absl::StatusCode::kInvalidArgument,
            "credit_limit_micro"}}) {
    absl::Status status = Create(books, c.change);
    EXPECT_EQ(status.code(), c.code) << c.name << ": " << status;
    EXPECT_TRUE(absl::StrContains(status.message(), c.says)) << c.name << ": " << status;
  }
  EXPECT_TRUE(Create(books, [](auto*) {}).ok());
}

TEST(Parties, AreListedInPagesWithTheirBalances) {
  Books books;
  for (const char* name : {"a", "b", "c"}) books.NewTenant(name, 1'000'000);
  v1::ListPartiesRequest request;
  request.set_page_size(2);
  std::string names;
  for (int page = 0; page < 9; ++page) {
    auto response = books.Get<v1::ListPartiesResponse>([&](Database& db) { return ListParties(db, request); });
    ASSERT_EQ(response.parties_size(), response.balances_size());
    for (const auto& balance : response.balances()) names += balance.party_name() + " ";
    if (response.next_page_token().empty()) break;
    request.set_page_token(response.next_page_token());
  }
  EXPECT_EQ(names, "a b c demo house ");
}

TEST(Parties, BalancesOfThePast) {
  Books books;
  const int64_t before = books.now_us() - 1;
  books.Advance(1000);
  auto balance = [&](int64_t as_of) {
    return books.Get<v1::Balance>([&](Database& db) { return GetBalance(db, "demo", as_of); }).posted_micro();
  };
  EXPECT_EQ(balance(0), 10'000'000);
  EXPECT_EQ(balance(before), 0);
}

TEST(Parties, ClosedIsForGood) {
  Books books;
  auto set = [&](v1::PartyStatus status) {
    v1::SetPartyStatusRequest request;
    request.set_party_id(books.tenant().ToBytes());
    request.set_status(status);
    return books.store().WriteAndWait([&](Database& db) { return SetPartyStatus(db, request).status(); });
  };
  EXPECT_TRUE(set(v1::PARTY_STATUS_SUSPENDED).ok());
  EXPECT_TRUE(set(v1::PARTY_STATUS_ACTIVE).ok());
  EXPECT_TRUE(set(v1::PARTY_STATUS_CLOSED).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(set(v1::PARTY_STATUS_ACTIVE)));
}

TEST(Keys, OnlyTheHmacIsKept) {
  Books books;
  v1::CreateKeyRequest request;
  request.set_party_name("demo");
  request.add_models("gantry-*");
  CreatedKey created =
      books.Get<CreatedKey>([&](Database& db) { return CreateKey(db, request, kPepper, books.now_us()); });
  absl::StatusOr<ApiKey> parsed = ParseApiKey(created.text.Reveal());
  ASSERT_TRUE(parsed.ok());
  std::vector<v1::KeyRecord> records;
  books.Do([&](Database& db) { return records = KeyRecordsOfKey(db, parsed->public_id), absl::OkStatus(); });
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].secret_hmac(), HmacOfSecret(kPepper, parsed->secret));
  EXPECT_EQ(records[0].models(0), "gantry-*");
  EXPECT_EQ(records[0].party_name(), "demo");
  for (const char* file : {"/gantry.db", "/gantry.db-wal"}) {
    std::ifstream in(books.dir() + file, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    EXPECT_FALSE(absl::StrContains(bytes, parsed->secret.Reveal())) << file;
  }
}

TEST(Keys, RevokedOnceAndForGatewaysToSee) {
  Books books;
  v1::RevokeKeyRequest request;
  books.Do([&](Database& db) { return request.set_public_id(AllKeyRecords(db)[0].public_id()), absl::OkStatus(); });
  auto revoke = [&](Database& db) { return RevokeKey(db, request, books.now_us()); };
  const int64_t first = books.Get<v1::Key>(revoke).revoked_us();
  books.Advance(5);
  EXPECT_EQ(books.Get<v1::Key>(revoke).revoked_us(), first);
  books.Do([&](Database& db) {
    EXPECT_TRUE(AllKeyRecords(db)[0].revoked());
    return absl::OkStatus();
  });
  request.set_public_id("nobody");
  EXPECT_TRUE(absl::IsNotFound(books.store().WriteAndWait([&](Database& db) { return revoke(db).status(); })));
}

TEST(Keys, PepperIsMadeOnceAndGuarded) {
  Books books;
  const std::string fresh = books.dir() + "/fresh";
  ASSERT_EQ(mkdir(fresh.c_str(), 0700), 0);
  const std::string path = fresh + "/pepper";
  absl::StatusOr<Secret> made = LoadOrCreatePepper(path);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->Reveal().size(), 32u);
  absl::StatusOr<Secret> again = LoadOrCreatePepper(path);
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(made->Equals(again->Reveal()));
  chmod(path.c_str(), 0644);
  EXPECT_TRUE(absl::IsPermissionDenied(LoadOrCreatePepper(path).status()));
  chmod(path.c_str(), 0600);
  std::ofstream(path) << "not hex";
  EXPECT_TRUE(absl::IsDataLoss(LoadOrCreatePepper(path).status()));
}

TEST(Plans, VersionsFollowEachOtherAndStay) {
  Books books;
  v1::PublishPlanVersionRequest request;
  request.set_plan("standard");
  request.set_currency("EUR");
  for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
    v1::PriceLine* line = request.add_lines();
    line->set_model_glob("*");
    line->set_token_class(static_cast<v1::TokenClass>(c));
    line->set_price_micro_per_m(7);
  }
  books.Advance(10);
  auto version =
      books.Get<v1::PlanVersion>([&](Database& db) { return PublishPlanVersion(db, request, books.now_us()); });
  EXPECT_EQ(version.number(), 2u);
  auto prices =
      books.Get<std::vector<v1::TenantPrices>>([&](Database& db) { return CurrentPrices(db, 0, books.now_us()); });
  ASSERT_EQ(prices.size(), 1u);
  EXPECT_EQ(prices[0].plan_version_id(), version.plan_version_id());
  auto earlier =
      books.Get<std::vector<v1::TenantPrices>>([&](Database& db) { return CurrentPrices(db, 0, books.now_us() - 1); });
  EXPECT_EQ(earlier[0].plan_version_id(), books.plan().ToBytes());

  request.set_currency("USD");
  EXPECT_TRUE(absl::IsFailedPrecondition(books.store().WriteAndWait(
      [&](Database& db) { return PublishPlanVersion(db, request, books.now_us()).status(); })));
  request.set_currency("EUR");
  request.mutable_lines()->RemoveLast();
  EXPECT_TRUE(absl::IsInvalidArgument(books.store().WriteAndWait(
      [&](Database& db) { return PublishPlanVersion(db, request, books.now_us()).status(); })));
}

TEST(AdminLog, CommandsHappenOnceAndLeaveOneRow) {
  Books books;
  v1::CreatePartyRequest request;
  request.set_kind(v1::PARTY_KIND_TENANT);
  request.set_name("acme");
  int runs = 0;
  auto call = [&](const std::string& key, v1::Party* response) {
    return books.store().WriteAndWait([&, key, response](Database& db) {
      return Once(db,
                  {.method = "CreateParty",
                   .idempotency_key = key,
                   .object = request.name(),
                   .now_us = books.now_us(),
                   .request = &request},
                  response, [&] {
                    ++runs;
                    absl::StatusOr<v1::Party> party = CreateParty(db, request, books.now_us());
                    if (party.ok()) *response = *std::move(party);
                    return party.status();
                  });
    });
  };
  v1::Party first, second;
  ASSERT_TRUE(call("k1", &first).ok());
  ASSERT_TRUE(call("k1", &second).ok());
  EXPECT_EQ(first.party_id(), second.party_id());
  EXPECT_EQ(runs, 1);
  EXPECT_TRUE(absl::IsAlreadyExists(call("k2", &second))) << "the name is taken";
  EXPECT_EQ(books.Int("SELECT count(*) FROM audit_log"), 1) << "what failed left nothing";
  request.set_legal_name("other");
  EXPECT_TRUE(absl::IsAlreadyExists(call("k1", &second)));
  EXPECT_TRUE(absl::IsInvalidArgument(call("", &second)));
  EXPECT_TRUE(absl::IsInvalidArgument(call(std::string(129, 'k'), &second)));
}

TEST(AdminLog, KeysAreKeptFor400DaysAndPrunedAfterwards) {
  constexpr int64_t kDayUs = int64_t{86'400'000'000};
  Books books;
  int runs = 0;
  const auto call = [&](const std::string& key) {
    v1::Party response;
    return books.store().WriteAndWait([&, key](Database& db) {
      const v1::CreatePartyRequest request;
      return Once(db, {.method = "CreateParty", .idempotency_key = key, .now_us = books.now_us(), .request = &request},
                  &response, [&] { return ++runs, absl::OkStatus(); });
    });
  };
  const auto prune = [&] {
    return books.Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
      const bool any = AnyIdempotencyToPrune(db, books.now_us());
      const int64_t pruned = PruneIdempotency(db, books.now_us(), 2);
      EXPECT_EQ(any, pruned > 0);
      return pruned;
    });
  };
  for (const char* key : {"a", "b", "c"}) ASSERT_TRUE(call(key).ok());
  books.Advance(400 * kDayUs);
  ASSERT_TRUE(call("young").ok());
  EXPECT_EQ(prune(), 0);
  ASSERT_TRUE(call("a").ok());
  EXPECT_EQ(runs, 4) << "known after 400 days";
  books.Advance(1);
  EXPECT_EQ(prune(), 2) << "a few at a time";
  EXPECT_EQ(prune(), 1);
  EXPECT_EQ(prune(), 0);
  EXPECT_EQ(books.Int("SELECT count(*) FROM idempotency"), 1);
  ASSERT_TRUE(call("a").ok());
  EXPECT_EQ(runs, 5) << "a new request";
}

}  // namespace
}  // namespace gantry::billing
