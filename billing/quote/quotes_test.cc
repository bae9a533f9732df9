#include "billing/quote/quotes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "billing/catalog/plans.h"
#include "billing/parties/party_tree.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kDayUs = 86'400'000'000;

// The books' day is 2026-11-10; their tenant is "demo".
class QuotesTest : public testing::Test {
 protected:
  static v1::DraftQuotesRequest Offer(std::initializer_list<const char*> buyers) {
    v1::DraftQuotesRequest request;
    for (const char* name : buyers) request.add_buyers()->set_name(name);
    v1::QuoteTerms* terms = request.mutable_terms();
    terms->set_plan("partners");
    terms->set_currency("EUR");
    for (const v1::TokenClass c :
         {v1::TOKEN_CLASS_INPUT, v1::TOKEN_CLASS_CACHED_INPUT, v1::TOKEN_CLASS_OUTPUT, v1::TOKEN_CLASS_REQUEST}) {
      v1::PriceLine* line = terms->add_lines();
      line->set_model_glob("*");
      line->set_token_class(c);
      line->set_price_micro_per_m(c == v1::TOKEN_CLASS_REQUEST ? 0 : 150'000);
    }
    terms->set_open_until("2026-11-20");
    terms->set_starts_on("2026-12-01");
    terms->set_promised_until("2027-11-30");
    return request;
  }
  absl::StatusOr<v1::QuoteList> TryDraft(const v1::DraftQuotesRequest& request) {
    return books_.Try<v1::QuoteList>([&](Database& db) { return DraftQuotes(db, request, books_.now_us()); });
  }
  std::string Drafted(const v1::DraftQuotesRequest& request) {
    const absl::StatusOr<v1::QuoteList> list = TryDraft(request);
    EXPECT_TRUE(list.ok()) << list.status();
    return list.ok() ? list->quotes(0).number() : "";
  }
  absl::StatusOr<v1::Quote> Send(const std::string& number) {
    v1::SendQuoteRequest request;
    request.set_number(number);
    return books_.Try<v1::Quote>([&](Database& db) { return SendQuote(db, request, books_.now_us()); });
  }
  absl::StatusOr<v1::Quote> Accept(const std::string& number, const std::string& by = "Ada") {
    v1::AcceptQuoteRequest request;
    request.set_number(number);
    request.set_accepted_by(by);
    return books_.Try<v1::Quote>([&](Database& db) { return AcceptQuote(db, request, books_.now_us()); });
  }
  absl::StatusOr<v1::Quote> Withdraw(const std::string& number) {
    v1::WithdrawQuoteRequest request;
    request.set_number(number);
    return books_.Try<v1::Quote>([&](Database& db) { return WithdrawQuote(db, request, books_.now_us()); });
  }
  // What the party pays for a million output tokens at a time.
  int64_t OutputPrice(const std::string& party, int64_t time_us) {
    return books_.Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
      absl::StatusOr<PartyRow> row = PartyByName(db, party);
      if (!row.ok()) return row.status();
      absl::StatusOr<std::shared_ptr<const PlanTerms>> terms = TermsAt(db, row->party_no, time_us);
      if (!terms.ok()) return -1;
      for (const PriceLine& line : (*terms)->lines) {
        if (line.token_class == TokenClass::kOutput) return line.tiers[0].price_micro_per_m;
      }
      return -1;
    });
  }

  Books books_;
};

TEST_F(QuotesTest, AnAcceptedQuotePricesItsBuyerFromTheDayItNames) {
  const std::string number = Drafted(Offer({"demo"}));
  EXPECT_EQ(number, "Q-2026-000001");
  ASSERT_TRUE(Send(number).ok());
  const absl::StatusOr<v1::Quote> accepted = Accept(number, "Ada, CEO");
  ASSERT_TRUE(accepted.ok()) << accepted.status();
  EXPECT_EQ(accepted->state(), v1::QUOTE_STATE_ACCEPTED);
  EXPECT_EQ(accepted->accepted_by(), "Ada, CEO");
  EXPECT_EQ(accepted->plan_version_id().size(), 16u);
  EXPECT_EQ(OutputPrice("demo", books_.now_us()), 800'000);
  EXPECT_EQ(OutputPrice("demo", books_.now_us() + 21 * kDayUs), 150'000);
}

TEST_F(QuotesTest, AcceptingTwiceSubscribesOnce) {
  const std::string number = Drafted(Offer({"demo"}));
  ASSERT_TRUE(Send(number).ok());
  const absl::StatusOr<v1::Quote> first = Accept(number, "Ada");
  ASSERT_TRUE(first.ok());
  books_.Advance(kDayUs);
  const absl::StatusOr<v1::Quote> second = Accept(number, "Bob");
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->SerializeAsString(), first->SerializeAsString());
  EXPECT_EQ(books_.Int("SELECT count(*) FROM plan WHERE name LIKE 'partners%'"), 1);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM plan_version WHERE promise_until_us > 0"), 1);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM subscription s JOIN plan p USING (plan_no) WHERE p.name LIKE 'partners%'"),
            1);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM outbox WHERE topic = 'quote.accepted'"), 1);
}

TEST_F(QuotesTest, SeveralBuyersGetTheSameOfferEachItsOwn) {
  v1::DraftQuotesRequest offer = Offer({"demo"});
  for (const char* name : {"beta", "gamma"}) {
    v1::QuoteBuyer* buyer = offer.add_buyers();
    buyer->set_name(name);
    buyer->set_legal_name(absl::StrCat(name, " GmbH"));
    buyer->set_kind(v1::PARTY_KIND_PEER);
  }
  const absl::StatusOr<v1::QuoteList> list = TryDraft(offer);
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->quotes_size(), 3);
  EXPECT_EQ(list->quotes(2).number(), "Q-2026-000003");
  EXPECT_EQ(list->quotes(2).buyer().legal_name(), "gamma GmbH");
  ASSERT_TRUE(Send("Q-2026-000002").ok());
  ASSERT_TRUE(Accept("Q-2026-000002").ok());
  EXPECT_EQ(books_.Int("SELECT count(*) FROM party WHERE name = 'beta' AND kind = 4"), 1);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM party WHERE name = 'gamma'"), 0);
  EXPECT_EQ(OutputPrice("beta", books_.now_us() + 21 * kDayUs), 150'000);
}

TEST_F(QuotesTest, ThePromiseBindsTheSeller) {
  const std::string number = Drafted(Offer({"demo"}));
  ASSERT_TRUE(Send(number).ok());
  ASSERT_TRUE(Accept(number).ok());
  v1::PublishPlanVersionRequest dearer;
  dearer.set_plan("partners-q-2026-000001");
  dearer.set_currency("EUR");
  *dearer.mutable_lines() = Offer({}).terms().lines();
  dearer.mutable_lines(2)->set_price_micro_per_m(150'001);
  dearer.set_valid_from_us(books_.now_us() + 30 * kDayUs);
  EXPECT_TRUE(absl::IsFailedPrecondition(
      books_.Try<v1::PlanVersion>([&](Database& db) { return PublishPlanVersion(db, dearer, books_.now_us()); })
          .status()));
}

TEST_F(QuotesTest, AnOfferEndsWithItsLastDay) {
  const std::string in_time = Drafted(Offer({"demo"})), late = Drafted(Offer({"demo"}));
  ASSERT_TRUE(Send(in_time).ok());
  ASSERT_TRUE(Send(late).ok());
  books_.SetTime(books_.now_us() / kDayUs * kDayUs + 11 * kDayUs - 1);  // the end of 2026-11-20, UTC
  EXPECT_TRUE(Accept(in_time).ok());
  books_.Advance(1);
  const absl::Status status = Accept(late).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("is expired"));
}

TEST_F(QuotesTest, AcceptedAfterItsFirstDayThePlanHoldsAtOnce) {
  v1::DraftQuotesRequest offer = Offer({"demo"});
  offer.mutable_terms()->set_starts_on("2026-11-10");
  const std::string number = Drafted(offer);
  ASSERT_TRUE(Send(number).ok());
  books_.Advance(3 * kDayUs);
  ASSERT_TRUE(Accept(number).ok());
  EXPECT_EQ(OutputPrice("demo", books_.now_us() - 1), 800'000);
  EXPECT_EQ(OutputPrice("demo", books_.now_us()), 150'000);
}

TEST_F(QuotesTest, MarkUpsAreResolvedWhenTheOfferIsMade) {
  books_.NewReseller("north", 0, 100'000);
  books_.NewTenant("shop", 0, "north");
  v1::DraftQuotesRequest offer = Offer({"shop"});
  offer.set_seller_name("north");
  offer.mutable_terms()->clear_lines();
  offer.mutable_terms()->set_markup_of(books_
                                           .PlanOf(books_.Get<Id16>([](Database& db) -> absl::StatusOr<Id16> {
                                             absl::StatusOr<PartyRow> north = PartyByName(db, "north");
                                             return north.ok() ? absl::StatusOr<Id16>(north->party_id) : north.status();
                                           }))
                                           .ToBytes());
  offer.mutable_terms()->set_markup_ppm(500'000);
  const absl::StatusOr<v1::QuoteList> list = TryDraft(offer);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_TRUE(list->quotes(0).terms().markup_of().empty());
  EXPECT_EQ(list->quotes(0).terms().lines(2).price_micro_per_m(), 1'200'000);
}

TEST_F(QuotesTest, StatesFollowEachOther) {
  const std::string draft = Drafted(Offer({"demo"})), withdrawn = Drafted(Offer({"demo"})),
                    accepted = Drafted(Offer({"demo"}));
  EXPECT_TRUE(absl::IsFailedPrecondition(Accept(draft).status()));
  ASSERT_TRUE(Withdraw(withdrawn).ok());
  EXPECT_TRUE(Withdraw(withdrawn).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Send(withdrawn).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Accept(withdrawn).status()));
  ASSERT_TRUE(Send(accepted).ok());
  EXPECT_TRUE(Send(accepted).ok());
  ASSERT_TRUE(Accept(accepted).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Withdraw(accepted).status()));
  EXPECT_TRUE(absl::IsNotFound(Accept("Q-2026-999999").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Accept(draft, "").status()));
}

TEST_F(QuotesTest, WhatCannotBeOfferedIsRefusedByName) {
  books_.NewReseller("north", 0, 100'000);
  books_.NewTenant("shop", 0, "north");
  const struct {
    const char* says;
    void (*change)(v1::DraftQuotesRequest*);
  } cases[] = {
      {"buyers: expected 1..100", [](auto* r) { r->clear_buyers(); }},
      {"there is no party `nobody`", [](auto* r) { r->mutable_buyers(0)->set_name("nobody"); }},
      {"`shop` does not buy from `house`", [](auto* r) { r->mutable_buyers(0)->set_name("shop"); }},
      {"currency: `demo` buys in EUR", [](auto* r) { r->mutable_terms()->set_currency("USD"); }},
      {"open_until: expected a day such as", [](auto* r) { r->mutable_terms()->set_open_until("20.11.2026"); }},
      {"open_until: expected today or a later day", [](auto* r) { r->mutable_terms()->set_open_until("2026-11-09"); }},
      {"promised_until: expected a day not before",
       [](auto* r) { r->mutable_terms()->set_promised_until("2026-11-30"); }},
      {"plan: expected a name of 1..40 bytes", [](auto* r) { r->mutable_terms()->set_plan(std::string(41, 'x')); }},
      {"no price line `*` for request", [](auto* r) { r->mutable_terms()->mutable_lines()->RemoveLast(); }},
      {"seller_name: `demo` sells nothing", [](auto* r) { r->set_seller_name("demo"); }},
  };
  for (const auto& c : cases) {
    v1::DraftQuotesRequest request = Offer({"demo"});
    c.change(&request);
    const absl::Status status = TryDraft(request).status();
    EXPECT_FALSE(status.ok()) << c.says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
  }
  EXPECT_EQ(books_.Int("SELECT count(*) FROM quote"), 0);
}

}  // namespace
}  // namespace gantry::billing
