#include "billing/invoice/invoice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "billing/catalog/admin_log.h"
#include "billing/catalog/plans.h"
#include "billing/invoice/currency.h"
#include "billing/invoice/invoice_test_util.h"
#include "billing/parties/parking.h"
#include "billing/usage/correct.h"

namespace gantry::billing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// "usage 161, allowance -100, …"
std::string LinesOf(const v1::Invoice& invoice) {
  std::string lines;
  for (const v1::InvoiceLine& line : invoice.lines()) {
    absl::StrAppend(&lines, lines.empty() ? "" : ", ", line.kind(), " ", line.net_minor());
  }
  return lines;
}

// Balance of an account of a party, credits - debits.
int64_t AccountOf(Books& books, const std::string& party, const std::string& type) {
  return books.Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
    Rows rows = db.Query(
        "SELECT credit_micro - debit_micro FROM account JOIN party USING (party_no) WHERE name = ? AND type = ?", party,
        type);
    return rows.Next() ? rows.Int(0) : 0;
  });
}

void ExpectSound(Books& books) {
  const v1::AuditReport report = books.Audited();
  EXPECT_TRUE(report.ok()) << report.DebugString();
}

// Another version of the house's plan: prices per million as in Books, with what is free and the least charge.
void Publish(Books& books, int64_t allowance_micro, int64_t commitment_micro) {
  books.Do([&](Database& db) {
    v1::PublishPlanVersionRequest plan;
    plan.set_plan("standard");
    plan.set_currency("EUR");
    plan.set_allowance_micro(allowance_micro);
    plan.set_commitment_micro(commitment_micro);
    const int64_t prices[] = {200'000, 50'000, 800'000, 0};
    for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
      v1::PriceLine* line = plan.add_lines();
      line->set_model_glob("*");
      line->set_token_class(static_cast<v1::TokenClass>(c));
      line->set_price_micro_per_m(prices[c - 1]);
    }
    return PublishPlanVersion(db, plan, books.now_us()).status();
  });
}

// Usage of a request at the prices that hold now.
void UseNow(Books& books, const Id16& slice, uint64_t prompt, uint64_t output) {
  v1::UsageRecord record = books.Record(slice, prompt, output);
  record.set_plan_version_id(books.PlanOf(books.tenant()).ToBytes());
  books.Append(record);
  books.Append(books.Witness(record, output));
}

// ---- drafts ----

TEST(Invoice, LinesAreUsageTimesPriceRoundedOnce) {
  Books books;
  const Id16 slice = books.Slice(9'000'000);
  Use(books, slice, 1'000'000, 250'000, 2'000'000);
  Use(books, slice, 10, 0, 6'250);
  books.Append(books.Record(slice, 100, 0, v1::USAGE_OUTCOME_FAILED));
  v1::Invoice invoice = Get(books, "demo", "2026-11");
  EXPECT_EQ(invoice.state(), "draft");
  EXPECT_EQ(invoice.number(), "");
  EXPECT_EQ(invoice.seller(), "House Ltd");
  EXPECT_EQ(invoice.requests(), 2u) << "what failed is not a request that is billed";
  ASSERT_EQ(invoice.lines_size(), 3);
  EXPECT_EQ(invoice.lines(0).quantity(), 750'010u);
  EXPECT_EQ(invoice.lines(0).amount_pico(), 750'010ll * 200'000);
  EXPECT_EQ(invoice.lines(0).net_minor(), 15);
  EXPECT_EQ(invoice.lines(1).quantity(), 250'000u);
  EXPECT_EQ(invoice.lines(1).net_minor(), 1) << "1.25 cents";
  EXPECT_EQ(invoice.lines(2).quantity(), 2'006'250u);
  EXPECT_EQ(invoice.lines(2).net_minor(), 161) << "160.5 cents, half away from zero";
  EXPECT_EQ(invoice.total_minor(), 15 + 1 + 161);
  EXPECT_EQ(invoice.amount_pico(), books.Int("SELECT sum(amount_pico) FROM rating"));
}

TEST(Invoice, AMonthWithoutUsageIsEmpty) {
  Books books;
  v1::Invoice invoice = Get(books, "demo", "2025-01");
  EXPECT_EQ(invoice.lines_size(), 0);
  EXPECT_EQ(invoice.total_minor(), 0);
}

TEST(Invoice, PeriodsAndPartiesMustExist) {
  Books books;
  for (const char* period : {"", "2026", "2026-13", "2026-1", "26-01", "2026-01-01", "x"}) {
    v1::GetInvoiceRequest request;
    request.set_party_name("demo");
    request.set_period(period);
    absl::Status status = books.store().ReadAndWait([&](Database& db) { return GetInvoice(db, request).status(); });
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << period << ": " << status;
  }
  EXPECT_TRUE(absl::IsNotFound(Finalize(books, "nobody", "2026-11").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Finalize(books, "demo", "2026-11-01").status()));
  NextMonth(books);
  EXPECT_TRUE(absl::IsInvalidArgument(Finalize(books, "house", "2026-11").status())) << "it buys from nobody";
  const auto missing = books.Try<v1::Invoice>([](Database& db) { return GetDocument(db, "G2026-000001"); });
  EXPECT_TRUE(absl::IsNotFound(missing.status()));
}

TEST(Invoice, MinorDigitsFollowTheCurrency) {
  EXPECT_EQ(MinorDigits("EUR"), 2);
  EXPECT_EQ(MinorDigits("JPY"), 0);
  EXPECT_EQ(MinorDigits("KWD"), 3);
}

TEST(Invoice, AmountsBeyond64BitsAreRefusedNotWrong) {
  Books books;
  books.Do([&](Database& db) {
    v1::PublishPlanVersionRequest plan;
    plan.set_plan("standard");
    plan.set_currency("EUR");
    for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
      v1::PriceLine* line = plan.add_lines();
      line->set_model_glob("*");
      line->set_token_class(static_cast<v1::TokenClass>(c));
      line->set_price_micro_per_m(1'000'000'000'000);
    }
    return PublishPlanVersion(db, plan, books.now_us()).status();
  });
  const Id16 slice = books.Slice(1'000'000);
  UseNow(books, slice, 0, 5'000'000);
  UseNow(books, slice, 0, 5'000'000);  // ten million units, of a line's 9.2
  v1::GetInvoiceRequest request;
  request.set_party_name("demo");
  request.set_period("2026-11");
  EXPECT_TRUE(
      absl::IsOutOfRange(books.Try<v1::Invoice>([&](Database& db) { return GetInvoice(db, request); }).status()));
}

TEST(Invoice, OneThatCannotBeReadIsDataLoss) {
  Books books;
  ChargeTax(books);
  NextMonth(books);
  ASSERT_TRUE(Finalize(books, "demo", "2026-11").ok());
  books.Tamper("UPDATE invoice SET content = x'ff'");
  EXPECT_TRUE(absl::IsDataLoss(Finalize(books, "demo", "2026-11").status()));
  const auto by_number = books.Try<v1::Invoice>([](Database& db) { return GetDocument(db, "G2026-000001"); });
  EXPECT_TRUE(absl::IsDataLoss(by_number.status()));
  books.Tamper("UPDATE billing_profile SET content = x'ff'");
  const auto profile = books.Try<v1::BillingProfile>([](Database& db) { return GetBillingProfile(db, "house"); });
  EXPECT_TRUE(absl::IsDataLoss(profile.status()));
}

// ---- becoming final ----

TEST(Invoice, FinalOnesAreNumberedWithoutGapsAndNeverChange) {
  Books books;
  books.NewTenant("acme", 0);
  Use(books, books.Slice(9'000'000), 1'000'000, 0, 0);
  const auto early = Finalize(books, "demo", "2026-11");
  EXPECT_TRUE(absl::IsFailedPrecondition(early.status())) << "the month is not over";
  NextMonth(books);
  auto first = Finalize(books, "demo", "2026-11");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->number(), "G2026-000001");
  EXPECT_EQ(Finalize(books, "demo", "2026-11")->number(), "G2026-000001") << "again";
  EXPECT_EQ(Finalize(books, "acme", "2026-11")->number(), "G2026-000002");
  EXPECT_EQ(Get(books, "demo", "2026-11").SerializeAsString(), first->SerializeAsString());
  EXPECT_EQ(GetNumber(books, "G2026-000001").SerializeAsString(), first->SerializeAsString());
  for (const char* sql : {"UPDATE invoice SET net_minor = 0", "DELETE FROM invoice"}) {
    EXPECT_FALSE(books.store()
                     .WriteAndWait([&](Database& db) {
                       db.Script(sql);
                       return absl::OkStatus();
                     })
                     .ok())
        << sql;
  }
  ExpectSound(books);
}

TEST(Invoice, TheCustomerIsDebitedExactlyTheGross) {
  Books books;
  ChargeTax(books);
  const Id16 slice = books.Slice(9'000'000);
  Use(books, slice, 1'000'000, 250'000, 2'000'000);
  Use(books, slice, 10, 0, 6'250);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 1'767'502) << "exact usage";
  NextMonth(books);
  const auto invoice = Finalize(books, "demo", "2026-11");
  ASSERT_TRUE(invoice.ok()) << invoice.status();
  EXPECT_EQ(invoice->net_minor(), 177);
  EXPECT_EQ(invoice->tax_minor(), 35) << "35.4";
  EXPECT_EQ(invoice->total_minor(), 212);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 2'120'000);
  EXPECT_EQ(AccountOf(books, "house", "rounding"), 1'770'000 - 1'767'502);
  EXPECT_EQ(AccountOf(books, "house", "tax"), 350'000);
  EXPECT_EQ(AccountOf(books, "house", "revenue"), 1'767'502);
  // It was prepaid.
  EXPECT_EQ(invoice->paid_minor(), 212);
  EXPECT_EQ(invoice->due_minor(), 0);
  EXPECT_EQ(invoice->open_minor(), 0);
  EXPECT_EQ(invoice->issued_on(), "2026-12-05");
  EXPECT_EQ(invoice->due_on(), "2026-12-19");
  ExpectSound(books);
}

TEST(Invoice, UsageOfTheNextMonthIsNotPartOfIt) {
  Books books;
  ChargeTax(books);
  const Id16 slice = books.Slice(9'000'000);
  Use(books, slice, 777, 0, 1);  // a part of a micro-unit stays with the account
  NextMonth(books);
  Use(books, slice, 1'000'001, 0, 3);
  ASSERT_TRUE(Finalize(books, "demo", "2026-11").ok());
  books.Advance(31 * kDayUs);
  const auto december = Finalize(books, "demo", "2026-12");
  ASSERT_TRUE(december.ok());
  EXPECT_EQ(december->net_minor(), 20);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 240'000) << "nothing of November: 0.02 cents";
  ExpectSound(books);
}

TEST(Invoice, WhatLacksOfTheMinimumIsCharged) {
  Books books;
  ChargeTax(books);
  Publish(books, 0, 5'000'000);
  UseNow(books, books.Slice(9'000'000), 1'000'000, 0);
  NextMonth(books);
  const auto invoice = Finalize(books, "demo", "2026-11");
  ASSERT_TRUE(invoice.ok()) << invoice.status();
  EXPECT_EQ(LinesOf(*invoice), "usage 20, commitment 480");
  EXPECT_EQ(invoice->total_minor(), 600);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 4'000'000);
  EXPECT_EQ(AccountOf(books, "house", "revenue"), 5'000'000);
  ExpectSound(books);
}

TEST(Invoice, WhatIsFreeIsALineOfItsOwn) {
  Books books;
  Publish(books, 1'000'000, 0);
  const Id16 slice = books.Slice(9'000'000);
  UseNow(books, slice, 2'000'000, 0);  // 0.40: free
  UseNow(books, slice, 0, 1'000'000);  // 0.80: 0.20 beyond what is free
  NextMonth(books);
  const auto invoice = Finalize(books, "demo", "2026-11");
  EXPECT_EQ(LinesOf(*invoice), "usage 40, usage 80, allowance -100");
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 9'800'000);
  ExpectSound(books);
}

TEST(Invoice, UsageThatTheHouseBearsIsNotOwed) {
  Books books;
  const Id16 slice = books.Slice(100'000);
  Use(books, slice, 1'000'000, 0, 0);  // 0.20, of which 0.10 was held
  NextMonth(books);
  const auto invoice = Finalize(books, "demo", "2026-11");
  ASSERT_TRUE(invoice.ok()) << invoice.status();
  EXPECT_EQ(LinesOf(*invoice), "usage 20, unheld -10");
  EXPECT_EQ(invoice->total_minor(), 10);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 9'900'000);
  ExpectSound(books);
}

TEST(Invoice, WaitsForWitnesses) {
  Books books;
  v1::UsageRecord record = books.Record(books.Slice(1'000'000), 10, 10);
  books.Append(record);
  NextMonth(books);
  absl::Status status = Finalize(books, "demo", "2026-11").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "witness")) << status;
  books.Append(books.Witness(record, 10));
  EXPECT_TRUE(Finalize(books, "demo", "2026-11").ok());
}

TEST(Invoice, WaitsForTheReleaseOfAParkedParty) {
  Books books;
  const v1::UsageRecord record = books.Record(books.Slice(1'000'000), 1000, 10);
  books.Append(record);
  books.Append(books.Witness(record, 10));
  books.Do([](Database& db) -> absl::Status {
    absl::StatusOr<PartyRow> party = PartyByName(db, "demo");
    if (!party.ok()) return party.status();
    Park(db, party->party_no, "transfer 3", "is not what was written", 1);
    return absl::OkStatus();
  });
  NextMonth(books);
  EXPECT_THAT(Finalize(books, "demo", "2026-11").status().ToString(), HasSubstr("party demo is parked"));
  books.Do([](Database& db) { return Unpark(db, "demo"); });
  EXPECT_TRUE(Finalize(books, "demo", "2026-11").ok());
}

TEST(Invoice, IsRefusedWhileTheClockIsBehindTheBooks) {
  Books books;
  books.Advance(60 * kDayUs);
  books.NewTenant("acme", 5);
  books.Advance(-30 * kDayUs);
  const absl::Status status = Finalize(books, "demo", "2026-11").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("clock"));
}

TEST(Invoice, EndsWithThePeriodAndNotBefore) {
  Books books;
  v1::Invoice draft = Get(books, "demo", "2026-11");
  books.SetTime(draft.period_to_us() - 1);
  EXPECT_TRUE(absl::IsFailedPrecondition(Finalize(books, "demo", "2026-11").status()));
  books.SetTime(draft.period_to_us());
  EXPECT_TRUE(Finalize(books, "demo", "2026-11").ok());
}

// ---- races and failures ----

// As the service runs it.
absl::StatusOr<v1::Invoice> FinalizeOnce(Books& books, const std::string& key) {
  v1::FinalizeInvoiceRequest request;
  request.set_idempotency_key(key);
  request.set_party_name("demo");
  request.set_period("2026-11");
  v1::Invoice response;
  const absl::Status status = books.store().WriteAndWait([&](Database& db) {
    return Once(db,
                {.method = "FinalizeInvoice", .idempotency_key = key, .now_us = books.now_us(), .request = &request},
                &response, [&] {
                  absl::StatusOr<v1::Invoice> invoice = FinalizeInvoice(db, request, books.now_us());
                  if (invoice.ok()) response = *invoice;
                  return invoice.status();
                });
  });
  if (!status.ok()) return status;
  return response;
}

TEST(Invoice, RacingFinalisationsGiveOneInvoice) {
  for (const bool same_key : {true, false}) {
    Books books;
    ChargeTax(books);
    Use(books, books.Slice(9'000'000), 1'000'000, 0, 0);
    NextMonth(books);
    std::vector<std::future<absl::StatusOr<v1::Invoice>>> racers;
    for (int i = 0; i < 8; ++i) {
      racers.push_back(std::async(std::launch::async, [&books, same_key, i] {
        return FinalizeOnce(books, same_key ? "key" : absl::StrCat("key ", i));
      }));
    }
    for (auto& racer : racers) {
      const auto invoice = racer.get();
      ASSERT_TRUE(invoice.ok()) << invoice.status();
      EXPECT_EQ(invoice->number(), "G2026-000001");
    }
    EXPECT_EQ(books.Int("SELECT count(*) FROM invoice"), 1);
    EXPECT_EQ(books.Int("SELECT count(*) FROM transfer WHERE kind = 10"), 1) << "taxed once";
    ExpectSound(books);
  }
}

TEST(Invoice, AFinalisationThatFailsInTheMiddleLeavesNothingAndTakesNoNumber) {
  Books books;
  ChargeTax(books);
  Use(books, books.Slice(9'000'000), 1'000'000, 0, 0);
  NextMonth(books);
  v1::FinalizeInvoiceRequest request;
  request.set_party_name("demo");
  request.set_period("2026-11");
  const absl::Status status = books.store().WriteAndWait([&](Database& db) -> absl::Status {
    EXPECT_TRUE(FinalizeInvoice(db, request, books.now_us()).ok());
    return absl::AbortedError("as if the process had been killed before the commit");
  });
  EXPECT_TRUE(absl::IsAborted(status));
  books.Reopen();
  EXPECT_EQ(Get(books, "demo", "2026-11").state(), "draft");
  EXPECT_EQ(books.Int("SELECT count(*) FROM transfer WHERE kind >= 8"), 0);
  EXPECT_EQ(Finalize(books, "demo", "2026-11")->number(), "G2026-000001");
  ExpectSound(books);
}

// ---- late usage (R11), and what is below zero ----

TEST(Invoice, LateUsageStandsOnTheNextOneWithItsOwnDate) {
  Books books;
  const Id16 slice = books.Slice(9'000'000);
  Use(books, slice, 1'000'000, 0, 0);
  NextMonth(books);
  const auto november = Finalize(books, "demo", "2026-11");
  Use(books, slice, 500'000, 100'000, 10, 20ull * 86'400'000);  // ended on the 15th of November
  Use(books, slice, 100'000, 0, 0, 20ull * 86'400'000);
  Use(books, slice, 100'000, 0, 0);
  EXPECT_EQ(Get(books, "demo", "2026-11").SerializeAsString(), november->SerializeAsString());
  const v1::Invoice december = Get(books, "demo", "2026-12");
  EXPECT_EQ(december.lines(0).quantity(), 600'000u) << "all that was not cached";
  ASSERT_EQ(december.late_usage_size(), 1);
  const v1::LateUsage& late = december.late_usage(0);
  EXPECT_EQ(late.day(), "2026-11-15");
  EXPECT_EQ(late.model(), "gantry-demo");
  EXPECT_EQ(late.requests(), 2);
  EXPECT_EQ(late.prompt_tokens(), 600'000);
  EXPECT_EQ(late.cached_tokens(), 100'000);
  EXPECT_EQ(late.output_tokens(), 10);
  EXPECT_EQ(late.amount_pico(), 500'000ll * 200'000 + 100'000ll * 50'000 + 10ll * 800'000);
  ExpectSound(books);
}

// A correction of November's only request to nothing, booked in December.
void CorrectToNothing(Books& books, const v1::UsageRecord& record) {
  v1::CorrectUsageRequest request;
  request.set_request_id(record.request_id());
  request.set_reason("measured twice");
  books.Do([&](Database& db) { return CorrectUsage(db, request, books.now_us()).status(); });
}

TEST(Invoice, IsNeverBelowZeroTheRestIsCarriedOver) {
  Books books;
  ChargeTax(books);
  const Id16 slice = books.Slice(9'000'000);
  v1::UsageRecord record = books.Record(slice, 0, 250'000);  // 0.20
  books.Append(record);
  books.Append(books.Witness(record, 0));  // the worker knows of nothing
  NextMonth(books);
  ASSERT_TRUE(Finalize(books, "demo", "2026-11").ok());
  CorrectToNothing(books, record);
  Use(books, slice, 200'000, 0, 0);  // 0.04
  books.Advance(31 * kDayUs);
  const auto december = Finalize(books, "demo", "2026-12");
  ASSERT_TRUE(december.ok()) << december.status();
  EXPECT_EQ(LinesOf(*december), "usage 4, usage -20, carried 16");
  EXPECT_EQ(december->total_minor(), 0);
  EXPECT_EQ(december->late_usage(0).day(), "2026-11-10");
  Use(books, slice, 2'000'000, 0, 0);  // 0.40
  books.Advance(31 * kDayUs);
  const auto january = Finalize(books, "demo", "2027-01");
  ASSERT_TRUE(january.ok()) << january.status();
  EXPECT_EQ(january->number(), "G2027-000001");
  EXPECT_EQ(LinesOf(*january), "usage 40, carried -16");
  EXPECT_EQ(january->total_minor(), 29) << "24 and 4.8 tax";
  ExpectSound(books);
  // What was carried over cannot be taken away from under the invoice that took it.
  EXPECT_TRUE(absl::IsFailedPrecondition(Void(books, december->number()).status()));
}

TEST(Invoice, LinesThatRoundBelowZeroComeToZero) {
  Books books;
  Publish(books, 8'000, 0);
  const Id16 slice = books.Slice(9'000'000);
  UseNow(books, slice, 20'000, 5'000);  // 0.4 and 0.4 cents are 0 each; 0.8 free cents are 1
  NextMonth(books);
  const auto invoice = Finalize(books, "demo", "2026-11");
  ASSERT_TRUE(invoice.ok()) << invoice.status();
  EXPECT_EQ(LinesOf(*invoice), "usage 0, usage 0, allowance -1, carried 1");
  EXPECT_EQ(invoice->total_minor(), 0);
  ExpectSound(books);
}

// ---- promotional credit ----

TEST(Invoice, WhatPromotionalCreditPaidForIsNotOwed) {
  Books books;
  ChargeTax(books);
  Give(books, "demo", 3'000'000);
  Use(books, books.Slice(9'000'000), 0, 0, 5'000'000);  // 4.00: 3.00 given, 1.00 paid
  NextMonth(books);
  const auto invoice = Finalize(books, "demo", "2026-11");
  ASSERT_TRUE(invoice.ok()) << invoice.status();
  EXPECT_EQ(LinesOf(*invoice), "usage 400, promotion -300");
  EXPECT_EQ(invoice->tax_minor(), 20) << "what is given is not taxed";
  EXPECT_EQ(invoice->paid_minor(), 120);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 10'000'000 - 1'200'000);
  ExpectSound(books);
}

TEST(Invoice, CreditGivenAfterThePeriodIsDeductedLater) {
  Books books;
  Use(books, books.Slice(9'000'000), 0, 0, 1'000'000);
  NextMonth(books);
  Give(books, "demo", 500'000);
  Use(books, books.Slice(500'000), 0, 0, 625'000);  // 0.50 of December
  EXPECT_EQ(LinesOf(*Finalize(books, "demo", "2026-11")), "usage 80");
  EXPECT_EQ(LinesOf(Get(books, "demo", "2026-12")), "usage 50, promotion -50");
  ExpectSound(books);
}

TEST(Invoice, PromotionalCreditPaysAMinimumToo) {
  Books books;
  ChargeTax(books);
  Publish(books, 0, 5'000'000);
  Give(books, "demo", 2'000'000);
  UseNow(books, books.Slice(1'000'000), 1'000'000, 0);  // 0.20 of what was given
  NextMonth(books);
  const auto invoice = Finalize(books, "demo", "2026-11");
  EXPECT_EQ(LinesOf(*invoice), "usage 20, commitment 480, promotion -200");
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 12'000'000 - 2'000'000 - 3'600'000);
  EXPECT_EQ(books.Int("SELECT sum(left_micro) FROM credit_lot WHERE kind = 1"), 0);
  ExpectSound(books);
}

TEST(Invoice, PromotionalCreditThatCameBackIsNoLongerDeducted) {
  Books books;
  ChargeTax(books);
  Give(books, "demo", 3'000'000);
  const Id16 slice = books.Slice(9'000'000);
  const v1::UsageRecord record = books.Record(slice, 0, 5'000'000);  // 4.00: 3.00 given, 1.00 paid
  books.Append(record);
  books.Append(books.Witness(record, 0));
  CorrectToNothing(books, record);
  EXPECT_EQ(LinesOf(Get(books, "demo", "2026-11")), "") << "of the same month: as if it had not been";
  UseNow(books, slice, 0, 2'500'000);  // 2.00 of the gift
  EXPECT_EQ(LinesOf(Get(books, "demo", "2026-11")), "usage 200, promotion -200");
  ExpectSound(books);
}

TEST(Invoice, ADeductionIsTakenBackWhenItsCreditComesBackLater) {
  Books books;
  ChargeTax(books);
  Give(books, "demo", 3'000'000);
  const v1::UsageRecord record = books.Record(books.Slice(4'000'000), 0, 5'000'000);  // 4.00: 3.00 given, 1.00 paid
  books.Append(record);
  books.Append(books.Witness(record, 0));
  NextMonth(books);
  const auto november = Finalize(books, "demo", "2026-11");
  ASSERT_TRUE(november.ok()) << november.status();
  EXPECT_EQ(LinesOf(*november), "usage 400, promotion -300");
  CorrectToNothing(books, record);
  EXPECT_EQ(books.Int("SELECT sum(left_micro) FROM credit_lot WHERE kind = 1"), 3'000'000);
  const v1::Invoice draft = Get(books, "demo", "2026-12");
  EXPECT_EQ(LinesOf(draft), "usage -400, promotion 300, carried 100") << "it owed 1.00, that is what it gets";
  Use(books, books.Slice(5'000'000), 0, 0, 6'250'000);  // 5.00: the 3.00 again, and 2.00
  books.Advance(31 * kDayUs);
  const auto december = Finalize(books, "demo", "2026-12");
  ASSERT_TRUE(december.ok()) << december.status();
  EXPECT_EQ(LinesOf(*december), "usage 100") << "5.00 - 4.00; what was given is deducted once, in November";
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 13'000'000 - 5'000'000 - 200'000 - 200'000);
  ExpectSound(books);
}

TEST(Invoice, WhatWasGivenAndExpiresAfterItCameBackIsNeitherDeductedNorPaidOut) {
  Books books;
  Give(books, "demo", 3'000'000, books.now_us() + kDayUs);
  const v1::UsageRecord record = books.Record(books.Slice(3'000'000), 0, 3'750'000);  // 3.00, all given
  books.Append(record);
  books.Append(books.Witness(record, 0));
  NextMonth(books);
  EXPECT_EQ(LinesOf(*Finalize(books, "demo", "2026-11")), "usage 300, promotion -300");
  CorrectToNothing(books, record);
  books.Do([&](Database& db) { return ExpireLots(db, books.now_us(), 10).status(); });
  EXPECT_EQ(AccountOf(books, "house", "breakage"), 3'000'000);
  EXPECT_TRUE(absl::IsFailedPrecondition(Refund(books, "demo", 10'000'001).status()));
  Use(books, books.Slice(3'000'000), 0, 0, 3'750'000);  // 3.00, all paid
  books.Advance(31 * kDayUs);
  const auto december = Finalize(books, "demo", "2026-12");
  ASSERT_TRUE(december.ok()) << december.status();
  EXPECT_EQ(LinesOf(*december), "promotion 300") << "usage is 3.00 - 3.00; what November had deducted was not paid";
  EXPECT_EQ(december->paid_minor(), 300);
  EXPECT_EQ(books.FundsOfParty(books.tenant()).posted_micro, 7'000'000);
  ExpectSound(books);
}

TEST(Invoice, WithoutAnyPaymentTaxIsOwedAndUsageStops) {
  Books books;
  ChargeTax(books);
  const Id16 acme = books.NewTenant("acme", 1'000'000);
  v1::UsageRecord record = books.Record(books.SliceOf(acme, 1'000'000), 0, 1'250'000);  // all of it
  record.set_party_id(acme.ToBytes());
  books.Append(record);
  books.Append(books.Witness(record, 1'250'000));
  NextMonth(books);
  const auto invoice = Finalize(books, "acme", "2026-11");
  ASSERT_TRUE(invoice.ok()) << invoice.status();
  EXPECT_EQ(invoice->total_minor(), 120);
  EXPECT_EQ(invoice->paid_minor(), 100);
  EXPECT_EQ(invoice->due_minor(), 20);
  EXPECT_EQ(books.FundsOfParty(acme).available_micro, -200'000);
  EXPECT_TRUE(books.SliceOf(acme, 1).IsZero()) << "nothing is admitted until it is paid";
  ExpectSound(books);
}

TEST(Invoice, WhatRunningRequestsHoldDoesNotPay) {
  Books books;
  ChargeTax(books);
  const Id16 slice = books.Slice(9'500'000);
  Use(books, slice, 0, 0, 5'000'000);  // 4.00; 5.50 are still held
  NextMonth(books);
  const auto invoice = Finalize(books, "demo", "2026-11");
  EXPECT_EQ(invoice->total_minor(), 480);
  EXPECT_EQ(invoice->open_minor(), 30) << "6.00 were there, 5.50 of them held: 0.50 of 0.80 tax";
  ExpectSound(books);
  Use(books, slice, 0, 0, 6'875'000);  // 5.50
  ExpectSound(books);
}

// ---- profiles on paper ----

TEST(Invoice, KeepsWhoTheTwoWereWhenItWasIssued) {
  Books books;
  ChargeTax(books);
  v1::BillingProfile buyer;
  buyer.set_party_name("demo");
  buyer.set_legal_name("上海示例科技有限公司");
  buyer.add_address_lines("世纪大道 100 号");
  buyer.set_country("CN");
  buyer.set_buyer_reference("PO 4711");
  buyer.mutable_buys_with()->set_category(v1::TAX_CATEGORY_G);
  ASSERT_TRUE(SetProfile(books, buyer).ok());
  Use(books, books.Slice(9'000'000), 1'000'000, 0, 0);
  NextMonth(books);
  const auto issued = Finalize(books, "demo", "2026-11");
  ASSERT_TRUE(issued.ok()) << issued.status();
  EXPECT_EQ(issued->legal_name(), "上海示例科技有限公司");
  EXPECT_EQ(issued->seller_details().vat_id(), "ATU12345678");
  EXPECT_EQ(issued->buyer_reference(), "PO 4711");
  ASSERT_EQ(issued->taxes_size(), 1);
  EXPECT_EQ(issued->taxes(0).category(), v1::TAX_CATEGORY_G);
  EXPECT_EQ(issued->taxes(0).note(), "Export outside the EU, exempt from tax.");
  EXPECT_EQ(issued->tax_minor(), 0);
  buyer.set_legal_name("Renamed Ltd");
  ASSERT_TRUE(SetProfile(books, buyer).ok());
  EXPECT_EQ(GetNumber(books, issued->number()).legal_name(), "上海示例科技有限公司");
}

TEST(Invoice, ReverseChargeNeedsBothVatIds) {
  Books books;
  ChargeTax(books);
  v1::BillingProfile buyer;
  buyer.set_party_name("demo");
  buyer.mutable_buys_with()->set_category(v1::TAX_CATEGORY_AE);
  ASSERT_TRUE(SetProfile(books, buyer).ok());
  Use(books, books.Slice(9'000'000), 1'000'000, 0, 0);
  NextMonth(books);
  EXPECT_EQ(Get(books, "demo", "2026-11").state(), "draft") << "drafts can be looked at";
  const absl::Status refused = Finalize(books, "demo", "2026-11").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("the buyer's VAT id is missing"));
  buyer.set_vat_id("DE123456789");
  ASSERT_TRUE(SetProfile(books, buyer).ok());
  const auto invoice = Finalize(books, "demo", "2026-11");
  ASSERT_TRUE(invoice.ok()) << invoice.status();
  EXPECT_EQ(invoice->taxes(0).note(), "Reverse charge: the customer owes the tax.");
  EXPECT_EQ(invoice->total_minor(), invoice->net_minor());
}

TEST(Invoice, EachSellerHasASeriesOfItsOwn) {
  Books books;
  books.NewReseller("alpine", 5'000'000, 100'000);
  const Id16 acme = books.NewTenant("acme", 5'000'000, "alpine");
  v1::UsageRecord record = books.Record(books.SliceOf(acme, 1'000'000), 0, 100'000);
  record.set_party_id(acme.ToBytes());
  record.set_plan_version_id(books.PlanOf(acme).ToBytes());
  books.Append(record);
  books.Append(books.Witness(record, 100'000));
  NextMonth(books);
  const auto own = Finalize(books, "acme", "2026-11");
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_THAT(own->number(), ::testing::MatchesRegex("S[0-9]+-2026-000001"));
  EXPECT_EQ(own->seller(), "alpine");
  EXPECT_EQ(Finalize(books, "alpine", "2026-11")->number(), "G2026-000001");
  EXPECT_EQ(Finalize(books, "demo", "2026-11")->number(), "G2026-000002");

  v1::BillingProfile profile;
  profile.set_party_name("alpine");
  profile.set_series_prefix("ALP-");
  ASSERT_TRUE(SetProfile(books, profile).ok());
  books.Advance(31 * kDayUs);
  EXPECT_EQ(Finalize(books, "acme", "2026-12")->number(), "ALP-2026-000001");
  EXPECT_EQ(CreditAmount(books, own->number(), 1)->number(), "ALP-C2027-000001");
  ExpectSound(books);
}

TEST(Invoice, RestoredBooksBeginASeriesOfTheirOwn) {
  Books books;
  NextMonth(books);
  EXPECT_EQ(Finalize(books, "demo", "2026-11")->number(), "G2026-000001");
  books.Do([](Database& db) {
    db.Execute("UPDATE lineage SET epoch = 2");
    db.Execute("INSERT INTO restore VALUES (2, 1, 1, 1, 0)");
    return absl::OkStatus();
  });
  books.Advance(31 * kDayUs);
  EXPECT_EQ(Finalize(books, "demo", "2026-12")->number(), "G2026R2-000001");
  ExpectSound(books);
}

}  // namespace
}  // namespace gantry::billing
