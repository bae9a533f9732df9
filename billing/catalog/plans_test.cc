#include "billing/catalog/plans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "billing/catalog/parties.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kDayUs = 86'400'000'000;

v1::PublishPlanVersionRequest Request(int64_t output_price) {
  v1::PublishPlanVersionRequest request;
  request.set_plan("standard");
  request.set_currency("EUR");
  for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
    v1::PriceLine* line = request.add_lines();
    line->set_model_glob("*");
    line->set_token_class(static_cast<v1::TokenClass>(c));
    line->set_price_micro_per_m(c == v1::TOKEN_CLASS_OUTPUT ? output_price : 0);
  }
  return request;
}

absl::StatusOr<v1::PlanVersion> Publish(Books& books, const v1::PublishPlanVersionRequest& request) {
  return books.Try<v1::PlanVersion>([&](Database& db) { return PublishPlanVersion(db, request, books.now_us()); });
}

TEST(Plans, AVersionIsReadAsItWasPublished) {
  Books books;
  v1::PublishPlanVersionRequest request = Request(0);
  v1::PriceLine* line = request.mutable_lines(2);
  line->set_mode(v1::TIER_MODE_GRADUATED);
  line->set_context_to(200'000);
  for (const int64_t from : {0, 1'000'000}) {
    v1::PriceTier* tier = line->add_tiers();
    tier->set_from(static_cast<uint64_t>(from));
    tier->set_price_micro_per_m(from == 0 ? 900'000 : 700'000);
  }
  v1::PriceLine* beyond = request.add_lines();
  *beyond = request.lines(0);
  beyond->set_token_class(v1::TOKEN_CLASS_OUTPUT);
  beyond->set_context_from(200'000);
  beyond->set_mode(v1::TIER_MODE_PACKAGE);
  beyond->set_package_size(1000);
  beyond->set_price_micro_per_m(5);
  request.set_commitment_micro(100);
  request.set_allowance_micro(7);
  request.set_promise_until_us(books.now_us() + kDayUs);
  const auto version = Publish(books, request);
  ASSERT_TRUE(version.ok()) << version.status();
  const PlanTerms terms =
      books.Get<PlanTerms>([&](Database& db) { return ReadTerms(db, *Id16::FromBytes(version->plan_version_id())); });
  ASSERT_EQ(terms.lines.size(), 5u);
  EXPECT_EQ(ToProto(terms.lines[2]).price_micro_per_m(), 900'000) << "a hold must cover the dearest tier";
  EXPECT_EQ(terms.lines[2].tiers[1].from, 1'000'000);
  EXPECT_EQ(terms.lines[4].package_size, 1000);
  EXPECT_EQ(terms.commitment_micro, 100);
  EXPECT_EQ(terms.allowance_micro, 7);
  EXPECT_EQ(HashOfTerms(terms), version->hash());
  EXPECT_TRUE(books.Audited().ok());
}

TEST(Plans, APromiseForbidsWhatIsDearerUntilItEnds) {
  Books books;
  v1::PublishPlanVersionRequest promised = Request(1000);
  promised.set_promise_until_us(books.now_us() + 30 * kDayUs);
  promised.set_commitment_micro(50);
  promised.set_allowance_micro(50);
  ASSERT_TRUE(Publish(books, promised).ok());
  const struct {
    const char* what;
    std::function<void(v1::PublishPlanVersionRequest&)> change;
  } rows[] = {
      {"output of `*`", [](auto& r) { r.mutable_lines(2)->set_price_micro_per_m(1001); }},
      {"output of `demo`",
       [](auto& r) {
         v1::PriceLine line = r.lines(2);
         line.set_model_glob("demo");
         line.set_price_micro_per_m(1001);
         *r.add_lines() = line;
         r.mutable_lines()->SwapElements(2, 4);
       }},
      {"output of `*`",
       [](auto& r) {
         r.mutable_lines(2)->set_mode(v1::TIER_MODE_GRADUATED);
         r.mutable_lines(2)->add_tiers()->set_price_micro_per_m(1000);
         r.mutable_lines(2)->add_tiers()->set_price_micro_per_m(1001);
         r.mutable_lines(2)->mutable_tiers(1)->set_from(10);
       }},
      {"the minimum commitment", [](auto& r) { r.set_commitment_micro(51); }},
      {"the free allowance", [](auto& r) { r.set_allowance_micro(49); }},
      {"the promise itself", [&](auto& r) { r.set_promise_until_us(books.now_us() + 29 * kDayUs); }},
  };
  for (const auto& row : rows) {
    v1::PublishPlanVersionRequest request = promised;
    row.change(request);
    const auto version = Publish(books, request);
    EXPECT_TRUE(absl::IsFailedPrecondition(version.status())) << row.what << ": " << version.status();
    EXPECT_THAT(std::string(version.status().message()), HasSubstr(row.what));
  }
  v1::PublishPlanVersionRequest cheaper = promised;
  cheaper.mutable_lines(2)->set_price_micro_per_m(900);
  EXPECT_TRUE(Publish(books, cheaper).ok());
  v1::PublishPlanVersionRequest later = Request(5000);
  later.set_valid_from_us(books.now_us() + 30 * kDayUs);
  EXPECT_TRUE(Publish(books, later).ok()) << "the promise has ended by then";
}

TEST(Plans, AVersionTakesEffectAtItsTime) {
  Books books;
  v1::PublishPlanVersionRequest request = Request(1000);
  const int64_t then = books.now_us() + kDayUs;
  request.set_valid_from_us(then);
  const auto version = Publish(books, request);
  ASSERT_TRUE(version.ok());
  const auto id_at = [&](int64_t time) {
    return books.Get<std::vector<v1::TenantPrices>>([&](Database& db) { return CurrentPrices(db, 0, time); })[0]
        .plan_version_id();
  };
  EXPECT_EQ(id_at(then - 1), books.plan().ToBytes());
  EXPECT_EQ(id_at(then), version->plan_version_id());
  const auto takes_effect = [&](int64_t since, int64_t now) {
    return books.Get<bool>([&](Database& db) -> absl::StatusOr<bool> { return PricesTakeEffect(db, since, now); });
  };
  EXPECT_FALSE(takes_effect(then - 10, then - 1));
  EXPECT_TRUE(takes_effect(then - 1, then));
  EXPECT_FALSE(takes_effect(then, then + 1));
  EXPECT_TRUE(absl::IsFailedPrecondition(Publish(books, Request(7)).status())) << "versions follow each other";
}

TEST(Plans, ResellersPublishWhatTheyBuyWithAMarkup) {
  Books books;
  const Id16 reseller = books.NewReseller("reseller", 0, 250'000);
  const Id16 tenant = books.NewTenant("theirs", 0, "reseller");
  const Id16 sold = books.PlanOf(tenant);
  const auto terms = books.Get<std::shared_ptr<const PlanTerms>>([&](Database& db) { return TermsOf(db, sold); });
  EXPECT_EQ(terms->lines[2].tiers[0].price_micro_per_m, 1'000'000);
  EXPECT_EQ(books.PlanOf(reseller), books.plan());
  // The house's own price may change: the reseller's is what it published.
  v1::PublishPlanVersionRequest dearer = Request(9'000'000);
  ASSERT_TRUE(Publish(books, dearer).ok());
  EXPECT_EQ(books.PlanOf(tenant), terms->version_id);

  v1::PublishPlanVersionRequest foreign;
  foreign.set_seller_name("reseller");
  foreign.set_plan("other");
  foreign.set_currency("EUR");
  foreign.set_markup_of(terms->version_id.ToBytes());  // its own, not its seller's
  EXPECT_TRUE(absl::IsInvalidArgument(Publish(books, foreign).status()));
  foreign.set_seller_name("theirs");
  EXPECT_TRUE(absl::IsFailedPrecondition(Publish(books, foreign).status())) << "tenants sell nothing";
}

TEST(Plans, WithoutAVersionTheMarkupIsOnWhatTheResellerPaysNow) {
  Books books;
  books.NewReseller("north", 0, 100'000);
  v1::PublishPlanVersionRequest request;
  request.set_plan("dear");
  request.set_seller_name("north");
  request.set_markup_ppm(500'000);
  const v1::PlanVersion version =
      books.Get<v1::PlanVersion>([&](Database& db) { return PublishPlanVersion(db, request, books.now_us()); });
  EXPECT_EQ(version.currency(), "EUR");
  ASSERT_GE(version.lines_size(), 3);
  EXPECT_EQ(version.lines(2).price_micro_per_m(), 1'200'000);  // 800,000 and a half more
}

TEST(Plans, APreviewRatesWithoutBooking) {
  Books books;
  v1::PreviewPriceRequest request;
  request.set_plan_version_id(books.plan().ToBytes());
  request.set_model("demo");
  request.set_prompt_tokens(1000);
  request.set_cached_tokens(200);
  request.set_output_tokens(50);
  request.set_requests(10);
  const auto preview = books.Get<v1::PreviewPriceResponse>([&](Database& db) { return PreviewPrice(db, request); });
  EXPECT_EQ(preview.amount_pico(), 10 * (800 * 200'000 + 200 * 50'000 + 50 * 800'000));
  request.set_output_tokens(UINT64_MAX);
  EXPECT_TRUE(absl::IsInvalidArgument(
      books.store().ReadAndWait([&](Database& db) { return PreviewPrice(db, request).status(); })));
}

TEST(Parties, MakeATreeOfFourLevelsInOneCurrency) {
  Books books;
  books.NewReseller("level-1", 0, 0);
  books.NewReseller("level-2", 0, 0, "level-1");
  books.NewTenant("level-3", 0, "level-2");
  const auto create = [&](const std::function<void(v1::CreatePartyRequest*)>& change) {
    v1::CreatePartyRequest request;
    request.set_kind(v1::PARTY_KIND_TENANT);
    request.set_name("another");
    change(&request);
    return books.store().WriteAndWait([&](Database& db) { return CreateParty(db, request, books.now_us()).status(); });
  };
  EXPECT_THAT(std::string(create([](auto* r) { r->set_parent_name("level-3"); }).message()),
              HasSubstr("is not a reseller"));
  books.NewReseller("last-reseller", 0, 0, "level-2");
  EXPECT_THAT(std::string(create([](auto* r) { r->set_parent_name("last-reseller"); }).message()),
              HasSubstr("which is the last"));
  EXPECT_THAT(std::string(create([](auto* r) {
                            r->set_parent_name("level-1");
                            r->set_currency("USD");
                          }).message()),
              HasSubstr("currency: expected EUR"));
  EXPECT_THAT(std::string(create([](auto* r) { r->set_time_zone("Mars/Olympus"); }).message()),
              HasSubstr("time_zone: expected an IANA name"));
  EXPECT_THAT(std::string(create([](auto* r) { r->set_plan("none"); }).message()), HasSubstr("has no version in EUR"));
}

}  // namespace
}  // namespace gantry::billing
