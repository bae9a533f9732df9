#include "billing/closing/closing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "billing/audit/audit.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/gateways.h"
#include "billing/ledger/lots.h"
#include "billing/outbox/outbox.h"
#include "billing/people/users.h"
#include "billing/testing/books.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kHourUs = 3'600'000'000;

class ClosingTest : public testing::Test {
 protected:
  absl::StatusOr<v1::Closing> Close(const std::string& party, v1::Leftover leftover = v1::LEFTOVER_REFUND) {
    v1::ClosePartyRequest request;
    request.set_party_name(party);
    request.set_leftover(leftover);
    request.set_reason("the contract ended");
    return books_.Try<v1::Closing>([&](Database& db) { return CloseParty(db, request, books_.now_us()); });
  }
  // What a sweep does.
  v1::Closing Sweep(const std::string& party, const absl::Status& clocks = absl::OkStatus()) {
    books_.Do([&](Database& db) { return FinishClosings(db, clocks, books_.now_us()); });
    v1::GetClosingRequest request;
    request.set_party_name(party);
    return books_.Get<v1::Closing>([&](Database& db) { return GetClosing(db, request); });
  }
  void Return(const Id16& slice) {
    v1::ReturnSliceRequest request;
    request.set_slice_id(slice.ToBytes());
    request.set_returned_micro(books_.Get<int64_t>(
        [&](Database& db) -> absl::StatusOr<int64_t> { return FindCredit(db, slice, Id16()).left_micro; }));
    request.set_close(true);
    books_.Do([&](Database& db) { return ReturnSlice(db, request, books_.now_us()).status(); });
  }
  void Credit(int64_t micro, LotKind kind) {
    books_.Do([&](Database& db) {
      absl::StatusOr<PartyRow> party = PartyById(db, books_.tenant());
      return PostCredit(db, *party, {.amount_micro = micro, .kind = kind, .reference = "test"}, books_.now_us());
    });
  }
  // Uses 800,000 micro-units per million output tokens, counted by both witnesses.
  void Use(const Id16& slice, uint64_t output_tokens) {
    const v1::UsageRecord record = books_.Record(slice, 0, output_tokens);
    books_.Append(record);
    books_.Append(books_.Witness(record, output_tokens));
  }

  Books books_;
};

TEST_F(ClosingTest, NothingIsAdmittedAnyMoreAtOnce) {
  ASSERT_TRUE(Close("demo").ok());
  EXPECT_EQ(books_.Int("SELECT count(*) FROM api_key WHERE revoked_us = 0"), 0);
  EXPECT_TRUE(books_.Slice(1'000).IsZero());
}

TEST_F(ClosingTest, ItWaitsForCreditThatIsOut) {
  const Id16 slice = books_.Slice(2'000'000);
  ASSERT_TRUE(Close("demo").ok());
  EXPECT_THAT(Sweep("demo").waits_for(), HasSubstr("gateways to give back 2000000"));
  const std::vector<CreditOut> out = books_.Get<std::vector<CreditOut>>(
      [](Database& db) -> absl::StatusOr<std::vector<CreditOut>> { return CreditOfClosing(db); });
  ASSERT_EQ(out.size(), 1u);
  ASSERT_EQ(out[0].lenders.size(), 1u);
  EXPECT_EQ(out[0].lenders[0].gateway_id, books_.gateway());
  Use(slice, 1'000'000);  // a stream that ends within the second
  Return(slice);
  EXPECT_GT(Sweep("demo").done_us(), 0);
}

TEST_F(ClosingTest, ItWaitsForTheRecordsOfASliceThatIsUsedUp) {
  const Id16 slice = books_.Slice(800);
  Use(slice, 1'000);
  ASSERT_EQ(books_.FundsOfParty(books_.tenant()).held_micro, 0);
  ASSERT_TRUE(Close("demo").ok());
  EXPECT_THAT(Sweep("demo").waits_for(), HasSubstr("hand in the records of 1 slices"));
  EXPECT_EQ(books_
                .Get<std::vector<CreditOut>>(
                    [](Database& db) -> absl::StatusOr<std::vector<CreditOut>> { return CreditOfClosing(db); })
                .size(),
            1u)
      << "it is called back";
  v1::UsageRecord free = books_.Record(slice, 0, 0);  // of a request that delivered nothing
  books_.Append(free);
  books_.Append(books_.Witness(free, 0));
  Return(slice);
  EXPECT_GT(Sweep("demo").done_us(), 0);
  EXPECT_EQ(books_.Int("SELECT sum(quantity) FROM usage_rollup WHERE position = 3"), 2) << "on the last invoice";
}

TEST_F(ClosingTest, ItWaitsForClocksThatAgree) {
  const Id16 slice = books_.Slice(1'000'000);
  Use(slice, 1'000);
  ASSERT_TRUE(Close("demo").ok());
  Return(slice);
  const v1::Closing apart = Sweep("demo", absl::FailedPreconditionError("the clocks of 2 of 3 gateways are apart"));
  EXPECT_EQ(apart.done_us(), 0);
  EXPECT_EQ(apart.waits_for(), "its last invoice: the clocks of 2 of 3 gateways are apart");
  EXPECT_EQ(apart.invoices_size(), 0);
  EXPECT_GT(Sweep("demo").done_us(), 0);
}

TEST_F(ClosingTest, WhatALostGatewayReportsAfterTheEndIsBookedAndTheHousePaysIt) {
  const Id16 slice = books_.Slice(1'000'000);
  Use(slice, 100'000);                                       // 0.08
  v1::UsageRecord spooled = books_.Record(slice, 0, 2'000);  // in the spool of a machine that is gone
  ASSERT_TRUE(Close("demo").ok());
  books_.Do([&](Database& db) { return ForgetGateway(db, books_.gateway(), books_.now_us()); });
  EXPECT_THAT(Sweep("demo").waits_for(), HasSubstr("gateways to give back"));
  books_.Advance(2 * kHourUs);
  books_.Do([&](Database& db) {
    ReleaseFenced(db, books_.now_us() - kHourUs);
    return absl::OkStatus();
  });
  const v1::Closing closing = Sweep("demo");
  ASSERT_GT(closing.done_us(), 0) << closing.waits_for();
  EXPECT_EQ(closing.refunded_micro(), 9'920'000);
  const int64_t revenue = books_.Int("SELECT credit_micro FROM account WHERE type = 'revenue'");

  books_.Advance(300 * 24 * kHourUs);
  spooled.set_age_ms(300ull * 24 * 3'600'000);
  for (int i = 0; i < 2; ++i) {  // sent again: counted once
    EXPECT_EQ(books_.Append(spooled).record_ids_size(), 1) << "taken, not refused";
    books_.Append(books_.Witness(spooled, 2'000));
  }
  EXPECT_EQ(books_.Int("SELECT count(*) FROM usage_event"), 2);
  EXPECT_EQ(books_.Int("SELECT sum(output_tokens) FROM usage_event"), 102'000);
  EXPECT_EQ(books_.Int("SELECT debit_micro FROM account WHERE type = 'late_unheld'"), 1'600);
  EXPECT_EQ(books_.Int("SELECT credit_micro FROM account WHERE type = 'revenue'"), revenue + 1'600);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM late_usage WHERE period = 202612"), 1) << "its November is invoiced";
  EXPECT_EQ(books_.FundsOfParty(books_.tenant()).posted_micro, 0) << "it owes nothing";
  EXPECT_EQ(books_.Int("SELECT count(*) FROM invoice"), 1);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
}

TEST_F(ClosingTest, ItWaitsForTheSecondWitness) {
  const Id16 slice = books_.Slice(1'000'000);
  const v1::UsageRecord record = books_.Record(slice, 0, 1'000);
  books_.Append(record);
  ASSERT_TRUE(Close("demo").ok());
  Return(slice);
  EXPECT_THAT(Sweep("demo").waits_for(), HasSubstr("1 requests to be counted a second time"));
  books_.Append(books_.Witness(record, 1'000));
  EXPECT_GT(Sweep("demo").done_us(), 0);
}

TEST_F(ClosingTest, TheLastInvoiceIsWrittenAndWhatWasPaidGoesBack) {
  Credit(3'000'000, LotKind::kPromotional);
  const Id16 slice = books_.Slice(9'000'000);
  Use(slice, 5'000'000);  // 4 EUR: the 3 that were given, 1 of the 10 that were paid
  ASSERT_TRUE(Close("demo").ok());
  Return(slice);
  const v1::Closing closing = Sweep("demo");
  ASSERT_GT(closing.done_us(), 0) << closing.waits_for();
  EXPECT_EQ(closing.invoices_size(), 1);
  EXPECT_EQ(closing.refunded_micro(), 9'000'000);
  EXPECT_EQ(closing.kept_micro(), 0);
  EXPECT_EQ(books_.FundsOfParty(books_.tenant()).posted_micro, 0);
  EXPECT_EQ(books_.Int("SELECT debit_micro - credit_micro FROM account WHERE type = 'cash'"), 1'000'000);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
}

TEST_F(ClosingTest, WhatIsKeptIsTheSellersBreakage) {
  Credit(3'000'000, LotKind::kPromotional);
  ASSERT_TRUE(Close("demo", v1::LEFTOVER_KEEP).ok());
  const v1::Closing closing = Sweep("demo");
  ASSERT_GT(closing.done_us(), 0) << closing.waits_for();
  EXPECT_EQ(closing.kept_micro(), 13'000'000);
  EXPECT_EQ(closing.invoices_size(), 0);  // nothing was used
  EXPECT_EQ(books_.Int("SELECT credit_micro FROM account WHERE type = 'breakage'"), 13'000'000);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
}

TEST_F(ClosingTest, CreditThatWasGivenIsNotPaidOut) {
  Credit(3'000'000, LotKind::kPromotional);
  ASSERT_TRUE(Close("demo").ok());
  const v1::Closing closing = Sweep("demo");
  EXPECT_EQ(closing.refunded_micro(), 10'000'000);
  EXPECT_EQ(closing.kept_micro(), 3'000'000);
}

TEST_F(ClosingTest, WhoOwesIsNotForgottenBeforeItHasPaid) {
  books_.Do([&](Database& db) {
    db.Execute("UPDATE party SET credit_limit_micro = 5000000 WHERE name = 'demo'");
    return absl::OkStatus();
  });
  const Id16 slice = books_.Slice(12'000'000);
  Use(slice, 15'000'000);  // 12 EUR of 10
  ASSERT_TRUE(Close("demo").ok());
  Return(slice);
  EXPECT_THAT(Sweep("demo").waits_for(), HasSubstr("it to pay 2000000"));
  EXPECT_EQ(books_.Int("SELECT count(*) FROM party WHERE name = 'demo'"), 1);
  Credit(2'000'000, LotKind::kBought);
  EXPECT_GT(Sweep("demo").done_us(), 0);
}

TEST_F(ClosingTest, WhoItWasIsForgottenAndItsRowsStay) {
  books_.Do([&](Database& db) -> absl::Status {
    v1::CreateUserRequest user;
    user.set_party_name("demo");
    user.set_email("ada@demo.example");
    user.set_name("Ada");
    user.set_role(v1::USER_ROLE_OWNER);
    GANTRY_RETURN_IF_ERROR(CreateUser(db, user, Caller(), Secret(std::string(32, 'p')), books_.now_us()).status());
    GANTRY_RETURN_IF_ERROR(AddEndpoint(db, books_.tenant(), "https://demo.example/hook", {}, books_.now_us()).status());
    return Enqueue(db, {.topic = "x", .party_id = books_.tenant(), .title = "demo"}, books_.now_us()).status();
  });
  Use(books_.Slice(1'000'000), 1'000);
  const int64_t transfers = books_.Int("SELECT count(*) FROM transfer");
  ASSERT_TRUE(Close("demo").ok());
  Return(books_.Get<Id16>([](Database& db) -> absl::StatusOr<Id16> {
    Rows rows = db.Query("SELECT slice_id FROM slice WHERE open = 1");
    rows.Next();
    return rows.Id(0);
  }));
  const v1::Closing closing = Sweep("demo");
  ASSERT_GT(closing.done_us(), 0) << closing.waits_for();
  EXPECT_EQ(closing.party_name(), "closed-" + books_.tenant().ToHex().substr(0, 16));
  EXPECT_EQ(books_.Int("SELECT count(*) FROM user WHERE email <> '' OR name <> ''"), 0);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM outbox"), 0);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM outbox_endpoint"), 0);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM party WHERE legal_name <> '' AND depth > 0"), 0);
  EXPECT_GT(books_.Int("SELECT count(*) FROM transfer"), transfers);
  EXPECT_EQ(books_.Int("SELECT count(*) FROM usage_event"), 1);
  EXPECT_TRUE(books_.Audited().ok()) << books_.Audited().DebugString();
}

TEST_F(ClosingTest, AResellerEndsAfterItsCustomers) {
  books_.NewReseller("north", 1'000'000, 100'000);
  books_.NewTenant("shop", 1'000'000, "north");
  const absl::Status early = Close("north").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(early));
  EXPECT_THAT(std::string(early.message()), HasSubstr("1 parties buy from `north`"));
  ASSERT_TRUE(Close("shop").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Close("north").status()));  // not before it is done
  Sweep("shop");
  EXPECT_TRUE(Close("north").ok());
}

TEST_F(ClosingTest, AskingTwiceIsAskingOnce) {
  const absl::StatusOr<v1::Closing> first = Close("demo");
  books_.Advance(kHourUs);
  const absl::StatusOr<v1::Closing> second = Close("demo", v1::LEFTOVER_KEEP);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(second->requested_us(), first->requested_us());
  EXPECT_EQ(second->leftover(), v1::LEFTOVER_REFUND);
}

TEST_F(ClosingTest, WhatIsWrongIsNamed) {
  EXPECT_TRUE(absl::IsFailedPrecondition(Close("house").status()));
  EXPECT_TRUE(absl::IsNotFound(Close("nobody").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Close("demo", v1::LEFTOVER_UNSPECIFIED).status()));
}

}  // namespace
}  // namespace gantry::billing
