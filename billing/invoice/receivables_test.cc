// Payments, what they pay, credit notes, void invoices, statements.
#include "billing/invoice/receivables.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "billing/catalog/parties.h"
#include "billing/invoice/invoice_test_util.h"
#include "billing/ledger/credit.h"
#include "billing/parties/parking.h"
#include "billing/usage/correct.h"
#include "billing/usage/witness_match.h"

namespace gantry::billing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

void ExpectSound(Books& books) {
  const v1::AuditReport report = books.Audited();
  EXPECT_TRUE(report.ok()) << report.DebugString();
}

// Books with a postpaid customer "acme" (credit limit 1,000), 20 % tax.
class Receivables : public testing::Test {
 protected:
  Receivables() {
    ChargeTax(books_);
    acme_ = books_.NewTenant("acme", 0);
    books_.Do([](Database& db) {
      db.Execute("UPDATE party SET credit_limit_micro = 1000000000 WHERE name = 'acme'");
      return absl::OkStatus();
    });
  }

  // One request of so many cents in the month that runs.
  void UseCents(int64_t cents) {
    v1::UsageRecord record =
        books_.Record(books_.SliceOf(acme_, cents * 10'000), 0, static_cast<uint64_t>(cents) * 12'500);
    record.set_party_id(acme_.ToBytes());
    books_.Append(record);
    books_.Append(books_.Witness(record, record.output_tokens()));
  }

  // A final invoice of one month's usage; the month is over then.
  v1::Invoice Invoice(int64_t net_cents) {
    UseCents(net_cents);
    return EndMonth();
  }
  v1::Invoice EndMonth() {
    const int64_t month = month_++;
    const std::string period = absl::StrFormat("%04d-%02d", 2026 + month / 12, month % 12 + 1);
    books_.SetTime(Get(books_, "acme", period).period_to_us() + kDayUs);
    const auto invoice = Finalize(books_, "acme", period);
    EXPECT_TRUE(invoice.ok()) << invoice.status();
    return invoice.value_or(v1::Invoice());
  }

  // Nothing waits for a witness any more.
  void Settle() {
    books_.Do([&](Database& db) { return ExpireWaiting(db, books_.now_us(), books_.now_us()); });
  }

  int64_t Posted() { return books_.FundsOfParty(acme_).posted_micro; }
  int64_t OpenOf(const v1::Invoice& invoice) { return GetNumber(books_, invoice.number()).open_minor(); }
  int64_t Owed() { return StatementOf(books_, "acme")->closing_micro(); }

  Books books_;
  Id16 acme_;
  int64_t month_ = 10;  // of 2026, from 0
};

TEST_F(Receivables, WhatIsNotPaidIsOpenUntilItIs) {
  const v1::Invoice invoice = Invoice(1'000);
  EXPECT_EQ(invoice.due_minor(), 1'200);
  EXPECT_EQ(Posted(), -12'000'000);
  const auto part = Pay(books_, "acme", 5'000'000);
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_EQ(part->allocated_micro(), 5'000'000);
  EXPECT_EQ(part->allocations(0).invoice_number(), invoice.number());
  EXPECT_EQ(OpenOf(invoice), 700);
  const auto rest = Pay(books_, "acme", 8'000'000);
  EXPECT_EQ(rest->allocated_micro(), 7'000'000);
  EXPECT_EQ(OpenOf(invoice), 0);
  EXPECT_EQ(Posted(), 1'000'000) << "what was paid too much is credit";
  EXPECT_EQ(GetNumber(books_, invoice.number()).due_minor(), 1'200) << "what was issued never changes";
  ExpectSound(books_);
}

TEST_F(Receivables, PaymentsPayTheOldestFirstOrWhatTheyAreFor) {
  const v1::Invoice first = Invoice(1'000), second = Invoice(2'000);
  ASSERT_TRUE(Pay(books_, "acme", 6'000'000, second.number()).ok());
  EXPECT_EQ(OpenOf(first), 1'200);
  EXPECT_EQ(OpenOf(second), 1'800);
  ASSERT_TRUE(Pay(books_, "acme", 15'000'000).ok());
  EXPECT_EQ(OpenOf(first), 0);
  EXPECT_EQ(OpenOf(second), 1'500);
  ExpectSound(books_);
}

TEST_F(Receivables, PaymentsCanBeHeldBackAndAllocatedByHand) {
  const v1::Invoice first = Invoice(1'000), second = Invoice(2'000);
  const auto payment = Pay(books_, "acme", 20'000'000, "", /*hold_back=*/true);
  EXPECT_EQ(payment->allocated_micro(), 0);
  const auto some = AllocateTo(books_, "acme", payment->payment(), second.number(), 700);
  ASSERT_TRUE(some.ok()) << some.status();
  EXPECT_EQ(some->amount_minor(), 700);
  EXPECT_EQ(some->unallocated_micro(), 13'000'000);
  EXPECT_EQ(some->open_minor(), 2'900);
  EXPECT_EQ(AllocateTo(books_, "acme", 0, "")->amount_minor(), 0) << "it pays only by its number";
  ASSERT_TRUE(Pay(books_, "acme", 1'000'000).ok());
  EXPECT_EQ(OpenOf(first), 1'100) << "others pay nothing in its stead";
  EXPECT_EQ(AllocateTo(books_, "acme", payment->payment(), "")->amount_minor(), 1'300) << "the rest, oldest first";
  EXPECT_EQ(OpenOf(first), 0);
  EXPECT_EQ(OpenOf(second), 1'500);
  const auto released = ReleaseFrom(books_, second.number());
  EXPECT_EQ(released->amount_minor(), 900);
  EXPECT_EQ(OpenOf(second), 2'400);
  ExpectSound(books_);
}

TEST_F(Receivables, AllocationsAreBoundedByPaymentAndInvoice) {
  const v1::Invoice invoice = Invoice(1'000);
  const auto payment = Pay(books_, "acme", 5'000'000, "", /*hold_back=*/true);
  const absl::Status held_back = AllocateTo(books_, "acme", 0, invoice.number()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(held_back)) << held_back;
  const absl::Status beyond = AllocateTo(books_, "acme", payment->payment(), invoice.number(), 501).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(beyond)) << beyond;
  EXPECT_THAT(std::string(beyond.message()), HasSubstr("the invoice has 1200 open, payments have 500 left"));
  const auto more = Pay(books_, "acme", 20'000'000, "", /*hold_back=*/true);
  EXPECT_TRUE(
      absl::IsFailedPrecondition(AllocateTo(books_, "acme", more->payment(), invoice.number(), 1'201).status()));
  EXPECT_EQ(OpenOf(invoice), 1'200) << "all or nothing of an amount that was asked for";
  EXPECT_TRUE(absl::IsInvalidArgument(AllocateTo(books_, "acme", 0, "", 5).status())) << "of which invoice?";
  EXPECT_TRUE(absl::IsInvalidArgument(AllocateTo(books_, "acme", 0, invoice.number(), -5).status()));
  EXPECT_TRUE(absl::IsNotFound(AllocateTo(books_, "acme", 99'999, invoice.number()).status()));
  EXPECT_TRUE(absl::IsNotFound(AllocateTo(books_, "acme", 0, "G2026-000099").status()));
  EXPECT_TRUE(absl::IsNotFound(AllocateTo(books_, "nobody", 0, invoice.number()).status()));
  EXPECT_TRUE(absl::IsNotFound(AllocateTo(books_, "demo", 0, invoice.number()).status())) << "somebody else's";
  EXPECT_TRUE(absl::IsFailedPrecondition(ReleaseFrom(books_, invoice.number()).status()));
  EXPECT_TRUE(absl::IsNotFound(ReleaseFrom(books_, "G2026-000099").status()));
  // And by the tables themselves.
  for (const char* sql :
       {"UPDATE receivable SET allocated_minor = 1201", "UPDATE payment SET allocated_micro = 20000001",
        "INSERT INTO allocation VALUES (9, 1, 1, 0, 0)"}) {
    EXPECT_FALSE(books_.store()
                     .WriteAndWait([&](Database& db) {
                       db.Script(sql);
                       return absl::OkStatus();
                     })
                     .ok())
        << sql;
  }
}

TEST_F(Receivables, ReadPaymentsAreChecked) {
  struct Case {
    const char* says;
    std::function<void(v1::RecordPaymentRequest*)> spoil;
  };
  const v1::Invoice invoice = Invoice(100);
  for (const Case& c : std::vector<Case>{
           {"amount_micro", [](auto* r) { r->set_amount_micro(0); }},
           {"amount_micro", [](auto* r) { r->set_amount_micro(-1); }},
           {"amount_micro", [](auto* r) { r->set_amount_micro(1'000'000'000'000'001); }},
           {"EUR has 2 decimals", [](auto* r) { r->set_amount_micro(1'005'000); }},
           {"method", [](auto* r) { r->clear_method(); }},
           {"method", [](auto* r) { r->set_method(std::string(33, 'x')); }},
           {"reference", [](auto* r) { r->set_reference(std::string(141, 'x')); }},
           {"reference", [](auto* r) { r->set_reference("a\nb"); }},
           {"received_on", [](auto* r) { r->set_received_on("yesterday"); }},
           {"received_on", [](auto* r) { r->set_received_on("2030-01-01"); }},
           {"received_on", [](auto* r) { r->set_received_on("2010-01-01"); }},
           {"hold_back",
            [&](auto* r) {
              r->set_hold_back(true);
              r->set_invoice_number(invoice.number());
            }},
           {"party_name", [](auto* r) { r->set_party_name("house"); }},
       }) {
    v1::RecordPaymentRequest request;
    request.set_party_name("acme");
    request.set_amount_micro(1'000'000);
    request.set_method("cash");
    c.spoil(&request);
    const auto payment =
        books_.Try<v1::Payment>([&](Database& db) { return RecordPayment(db, request, books_.now_us()); });
    EXPECT_TRUE(absl::IsInvalidArgument(payment.status())) << c.says << ": " << payment.status();
    EXPECT_THAT(std::string(payment.status().message()), HasSubstr(c.says));
  }
  EXPECT_EQ(Posted(), -1'200'000) << "nothing was booked";
  EXPECT_TRUE(absl::IsNotFound(Pay(books_, "nobody", 1'000'000).status()));
  EXPECT_TRUE(absl::IsNotFound(Pay(books_, "acme", 1'000'000, "G2026-000099").status()));
}

TEST_F(Receivables, TopUpsAreListedAmongPayments) {
  ASSERT_TRUE(Pay(books_, "demo", 2'500'000).ok());
  v1::ListPaymentsRequest request;
  request.set_party_name("demo");
  request.set_page_size(1);
  const auto first = books_.Get<v1::ListPaymentsResponse>([&](Database& db) { return ListPayments(db, request); });
  ASSERT_EQ(first.payments_size(), 1);
  EXPECT_EQ(first.payments(0).method(), "top-up");
  EXPECT_EQ(first.payments(0).amount_micro(), 10'000'000);
  request.set_page_token(first.next_page_token());
  const auto second = books_.Get<v1::ListPaymentsResponse>([&](Database& db) { return ListPayments(db, request); });
  ASSERT_EQ(second.payments_size(), 1);
  EXPECT_EQ(second.payments(0).method(), "bank transfer");
  EXPECT_EQ(second.payments(0).received_on(), "2026-11-10");
  EXPECT_EQ(second.next_page_token(), "");
  const auto list = [&](const v1::ListPaymentsRequest& r) {
    return books_.Try<v1::ListPaymentsResponse>([&](Database& db) { return ListPayments(db, r); }).status();
  };
  request.set_page_token("x");
  EXPECT_TRUE(absl::IsInvalidArgument(list(request)));
  request.clear_page_token();
  request.set_page_size(1001);
  EXPECT_TRUE(absl::IsInvalidArgument(list(request)));
  request.set_party_name("nobody");
  EXPECT_TRUE(absl::IsNotFound(list(request)));
}

TEST_F(Receivables, CreditThatExpiredPaysNothing) {
  books_.Do([&](Database& db) {
    absl::StatusOr<PartyRow> acme = PartyById(db, acme_);
    return PostCredit(db, *acme, {.amount_micro = 10'000'000, .expires_us = books_.now_us() + kDayUs}, books_.now_us());
  });
  UseCents(300);
  books_.Advance(2 * kDayUs);
  books_.Do([&](Database& db) { return ExpireLots(db, books_.now_us(), 10).status(); });
  const v1::Invoice first = EndMonth();
  EXPECT_EQ(first.paid_minor(), 300) << "7.00 are gone, and 3.00 were used";
  EXPECT_EQ(first.due_minor(), 60);
  EXPECT_EQ(Owed(), 600'000);
  EXPECT_EQ(Posted(), -600'000);
  ExpectSound(books_);
}

TEST_F(Receivables, RefundsTakeWhatPaymentsHaveLeft) {
  const v1::Invoice invoice = Invoice(1'000);
  const auto first = Pay(books_, "acme", 15'000'000);
  const auto second = Pay(books_, "acme", 2'000'000);
  EXPECT_EQ(Posted(), 5'000'000);
  EXPECT_TRUE(absl::IsFailedPrecondition(Refund(books_, "acme", 3'000'001, first->payment()).status()));
  ASSERT_TRUE(Refund(books_, "acme", 1'000'000, first->payment()).ok());
  const auto rest = Refund(books_, "acme", 3'500'000);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_EQ(rest->unallocated_micro(), 500'000);
  EXPECT_EQ(Posted(), 500'000);
  EXPECT_EQ(Owed(), -500'000);
  v1::ListPaymentsRequest request;
  request.set_party_name("acme");
  const auto list = books_.Get<v1::ListPaymentsResponse>([&](Database& db) { return ListPayments(db, request); });
  EXPECT_EQ(list.payments(0).refunded_micro(), 2'500'000) << "the newest first, then the rest of it";
  EXPECT_EQ(list.payments(1).refunded_micro(), 2'000'000);
  const absl::Status beyond = Refund(books_, "acme", 500'001).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(beyond));
  EXPECT_THAT(std::string(beyond.message()), HasSubstr("at most 500000 can be refunded"));
  ExpectSound(books_);
}

TEST_F(Receivables, WhatACorrectionGivesBackOfAGiftIsNotRefunded) {
  ASSERT_TRUE(Pay(books_, "acme", 5'000'000).ok());
  Give(books_, "acme", 4'000'000);
  v1::UsageRecord record = books_.Record(books_.SliceOf(acme_, 6'000'000), 0, 7'500'000);  // 4.00 given, 2.00 paid
  record.set_party_id(acme_.ToBytes());
  books_.Append(record);
  v1::CorrectUsageRequest correct;
  correct.set_request_id(record.request_id());
  correct.set_output_tokens(1'250'000);  // 1.00
  correct.set_reason("measured twice");
  books_.Do([&](Database& db) { return CorrectUsage(db, correct, books_.now_us()).status(); });
  EXPECT_EQ(Posted(), 8'000'000);
  const absl::Status beyond = Refund(books_, "acme", 5'000'001).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(beyond)) << beyond;
  EXPECT_THAT(std::string(beyond.message()), HasSubstr("of the balance 5000000 was paid and not used"));
  EXPECT_TRUE(Refund(books_, "acme", 5'000'000).ok()) << "and all that was paid is";
  EXPECT_EQ(Posted(), 3'000'000);
  ExpectSound(books_);
}

TEST_F(Receivables, RefundsAreChecked) {
  ASSERT_TRUE(Pay(books_, "acme", 5'000'000).ok());
  Give(books_, "acme", 5'000'000);
  EXPECT_TRUE(absl::IsFailedPrecondition(Refund(books_, "acme", 5'000'001).status()))
      << "what was given is not paid out";
  EXPECT_FALSE(books_.SliceOf(acme_, 8'000'000).IsZero());
  EXPECT_TRUE(absl::IsFailedPrecondition(Refund(books_, "acme", 2'000'001).status())) << "held by running requests";
  EXPECT_TRUE(absl::IsInvalidArgument(Refund(books_, "acme", 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Refund(books_, "acme", 1'000'000'000'000'001).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Refund(books_, "house", 1).status()));
  EXPECT_TRUE(absl::IsNotFound(Refund(books_, "nobody", 1).status()));
  EXPECT_TRUE(absl::IsNotFound(Refund(books_, "acme", 1, 99'999).status()));
  v1::RefundPaymentRequest request;
  request.set_party_name("acme");
  request.set_amount_micro(1);
  const auto no_reference =
      books_.Try<v1::RefundPaymentResponse>([&](Database& db) { return RefundPayment(db, request, books_.now_us()); });
  EXPECT_TRUE(absl::IsInvalidArgument(no_reference.status()));
  EXPECT_EQ(Owed(), -5'000'000) << "nothing went back";
}

// ---- money that becomes free ----

// What billing does every ten seconds: who is asked, and how much is paid.
class FreedMoney : public Receivables {
 protected:
  std::vector<int64_t> Buyers() {
    return books_.Get<std::vector<int64_t>>(
        [](Database& db) -> absl::StatusOr<std::vector<int64_t>> { return BuyersWhoCanPay(db, 100); });
  }
  int64_t Sweep() {
    return books_.Get<int64_t>(
        [&](Database& db) { return PayFromFreedMoney(db, BuyersWhoCanPay(db, 100), books_.now_us()); });
  }
  // `micro`: all that has been returned of it.
  void Return(const Id16& slice, int64_t micro, bool close) {
    books_.Do([&](Database& db) {
      v1::ReturnSliceRequest request;
      request.set_slice_id(slice.ToBytes());
      request.set_returned_micro(micro);
      request.set_close(close);
      return ReturnSlice(db, request, books_.now_us()).status();
    });
  }
  // Of the prepaid tenant "demo", which has 10.00: so much usage, all the rest is held, and the month's invoice.
  v1::Invoice InvoiceWhileHeld(int64_t cents, const std::string& period) {
    slice_ = books_.Slice(books_.FundsOfParty(books_.tenant()).available_micro);
    Use(books_, slice_, 0, 0, static_cast<uint64_t>(cents) * 12'500);
    books_.SetTime(Get(books_, "demo", period).period_to_us() + kDayUs);
    const auto invoice = Finalize(books_, "demo", period);
    EXPECT_TRUE(invoice.ok()) << invoice.status();
    return invoice.value_or(v1::Invoice());
  }
  Id16 slice_;
};

TEST_F(FreedMoney, PaysWhatStayedOpenWhileItWasHeld) {
  const v1::Invoice invoice = InvoiceWhileHeld(400, "2026-11");  // and 0.80 tax
  EXPECT_EQ(OpenOf(invoice), 80) << "6.00 are there, all held";
  EXPECT_THAT(Buyers(), IsEmpty());
  EXPECT_EQ(Sweep(), 0);
  Return(slice_, 300'000, /*close=*/false);
  EXPECT_EQ(Buyers().size(), 1u);
  EXPECT_EQ(Sweep(), 30);
  EXPECT_EQ(OpenOf(invoice), 50);
  EXPECT_THAT(Buyers(), IsEmpty());
  Return(slice_, 1'300'000, /*close=*/false);
  EXPECT_EQ(Sweep(), 50);
  EXPECT_EQ(OpenOf(invoice), 0);
  EXPECT_EQ(Sweep(), 0) << "once";
  EXPECT_EQ(books_.FundsOfParty(books_.tenant()).held_micro, 4'700'000) << "what is held stays held";
  EXPECT_EQ(books_.FundsOfParty(books_.tenant()).available_micro, 500'000);
  ExpectSound(books_);
}

TEST_F(FreedMoney, PaysTheOldestFirstAndAsMuchAsIsFree) {
  const v1::Invoice first = InvoiceWhileHeld(300, "2026-11");  // 0.60 tax
  const Id16 november = slice_;
  Return(november, 200'000, /*close=*/false);
  Use(books_, november, 0, 0, 2'500'000);  // 2.00 of December
  books_.SetTime(Get(books_, "demo", "2026-12").period_to_us() + kDayUs);
  const auto second = Finalize(books_, "demo", "2026-12");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(OpenOf(first), 60);
  EXPECT_EQ(OpenOf(*second), 20) << "tax of both is 1.00, and 0.20 were free";
  Return(november, 900'000, /*close=*/false);
  EXPECT_EQ(Sweep(), 70);
  EXPECT_EQ(OpenOf(first), 0);
  EXPECT_EQ(OpenOf(*second), 10);
  Return(november, 0, /*close=*/true);
  EXPECT_EQ(Sweep(), 10);
  ExpectSound(books_);
}

TEST_F(FreedMoney, NobodyIsAskedWhoHasNothingOpenOrNothingToPayWith) {
  EXPECT_THAT(Buyers(), IsEmpty()) << "nothing is open";
  Invoice(1'000);
  EXPECT_THAT(Buyers(), IsEmpty()) << "acme owes, and has paid nothing";
  ASSERT_TRUE(Pay(books_, "acme", 5'000'000, "", /*hold_back=*/true).ok());
  EXPECT_THAT(Buyers(), IsEmpty()) << "that pays only by its number";
}

TEST_F(FreedMoney, WhatSomebodyReleasedIsLeftToHim) {
  const v1::Invoice invoice = Invoice(1'000);
  ASSERT_TRUE(Pay(books_, "acme", 12'000'000).ok());
  ASSERT_TRUE(ReleaseFrom(books_, invoice.number()).ok());
  EXPECT_THAT(Buyers(), IsEmpty());
  EXPECT_TRUE(Void(books_, invoice.number()).ok()) << "that is what it was released for";
  ExpectSound(books_);
}

TEST_F(FreedMoney, AParkedPartyWaits) {
  const v1::Invoice invoice = InvoiceWhileHeld(400, "2026-11");
  Return(slice_, 0, /*close=*/true);
  books_.Do([&](Database& db) {
    Park(db, PartyById(db, books_.tenant())->party_no, "account 1", "is wrong", books_.now_us());
    return absl::OkStatus();
  });
  EXPECT_THAT(Buyers(), IsEmpty());
  books_.Do([](Database& db) { return Unpark(db, "demo"); });
  EXPECT_EQ(Sweep(), 80);
  EXPECT_EQ(OpenOf(invoice), 0);
}

// ---- closing ----

TEST_F(Receivables, AClosedCustomersLastMonthEndsWithItsLastRequest) {
  const Id16 slice = books_.SliceOf(acme_, 5'000'000);
  v1::UsageRecord record = books_.Record(slice, 0, 1'250'000);
  record.set_party_id(acme_.ToBytes());
  books_.Append(record);
  books_.Append(books_.Witness(record, 1'250'000));
  ASSERT_TRUE(Pay(books_, "acme", 3'000'000).ok());
  books_.Do([&](Database& db) {
    v1::SetPartyStatusRequest request;
    request.set_party_id(acme_.ToBytes());
    request.set_status(v1::PARTY_STATUS_CLOSED);
    return SetPartyStatus(db, request).status();
  });
  const absl::Status held = Finalize(books_, "acme", "2026-11").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(held)) << held;
  EXPECT_THAT(std::string(held.message()), HasSubstr("held by requests that may still run"));
  books_.Do([&](Database& db) {
    v1::ReturnSliceRequest request;
    request.set_slice_id(slice.ToBytes());
    request.set_close(true);
    return ReturnSlice(db, request, books_.now_us()).status();
  });
  EXPECT_TRUE(absl::IsFailedPrecondition(Finalize(books_, "acme", "2026-12").status())) << "not begun";
  const auto last = Finalize(books_, "acme", "2026-11");
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->total_minor(), 120);
  EXPECT_EQ(last->issued_on(), "2026-11-10");
  ASSERT_TRUE(Refund(books_, "acme", 1'800'000).ok()) << "what is left goes back";
  EXPECT_EQ(Posted(), 0);
  EXPECT_EQ(Owed(), 0);
  ExpectSound(books_);
}

// ---- credit notes ----

TEST_F(Receivables, ACreditNoteTakesBackTheWhole) {
  const v1::Invoice invoice = Invoice(1'001);
  EXPECT_EQ(invoice.total_minor(), 1'201);
  const auto note = CreditAmount(books_, invoice.number(), 0);
  ASSERT_TRUE(note.ok()) << note.status();
  EXPECT_EQ(note->number(), "GC2026-000001");
  EXPECT_EQ(note->kind(), "credit_note");
  EXPECT_EQ(note->original_number(), invoice.number());
  EXPECT_EQ(note->reason(), "slow days");
  EXPECT_EQ(note->lines_size(), invoice.lines_size());
  EXPECT_EQ(note->total_minor(), 1'201);
  EXPECT_EQ(Posted(), 0);
  EXPECT_EQ(OpenOf(invoice), 0);
  EXPECT_EQ(GetNumber(books_, invoice.number()).credited_minor(), 1'201);
  EXPECT_EQ(GetNumber(books_, note->number()).SerializeAsString(), note->SerializeAsString());
  EXPECT_TRUE(absl::IsFailedPrecondition(CreditAmount(books_, invoice.number(), 0).status())) << "nothing is left";
  EXPECT_TRUE(absl::IsFailedPrecondition(Void(books_, invoice.number()).status()));
  ExpectSound(books_);
}

TEST_F(Receivables, CreditNotesNeverComeToMoreThanTheInvoice) {
  const v1::Invoice invoice = Invoice(100);  // and 20 tax
  int64_t net = 0, tax = 0;
  for (const int64_t part : {33, 33, 33}) {
    const auto note = CreditAmount(books_, invoice.number(), part);
    ASSERT_TRUE(note.ok()) << note.status();
    net += note->net_minor();
    tax += note->tax_minor();
  }
  EXPECT_EQ(tax, 20) << "19.8: 6.6 is 7, then 6, then 7";
  EXPECT_TRUE(absl::IsOutOfRange(CreditAmount(books_, invoice.number(), 2).status()));
  const auto last = CreditAmount(books_, invoice.number(), 0);
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(net + last->net_minor(), invoice.net_minor());
  EXPECT_EQ(tax + last->tax_minor(), invoice.tax_minor());
  EXPECT_EQ(Posted(), 0);
  EXPECT_EQ(last->number(), "GC2026-000004");
  ExpectSound(books_);
}

TEST_F(Receivables, ACreditNoteOfLinesNamesThem) {
  v1::UsageRecord record = books_.Record(books_.SliceOf(acme_, 3'000'000), 5'000'000, 1'250'000);
  record.set_party_id(acme_.ToBytes());
  books_.Append(record);
  books_.Append(books_.Witness(record, 1'250'000));
  const v1::Invoice invoice = EndMonth();  // input 100, output 100
  ASSERT_EQ(invoice.lines_size(), 2);
  v1::CreateCreditNoteRequest request;
  request.set_number(invoice.number());
  request.set_reason("output was garbled");
  v1::CreditLine* line = request.add_lines();
  line->set_line(2);
  line->set_net_minor(40);
  const auto first = CreditNote(books_, request);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_EQ(first->lines_size(), 1);
  EXPECT_EQ(first->lines(0).original_line(), 2u);
  EXPECT_EQ(first->lines(0).net_minor(), 40);
  EXPECT_EQ(first->lines(0).quantity(), 1) << "a part of an amount";
  line->set_net_minor(0);
  EXPECT_EQ(CreditNote(books_, request)->lines(0).net_minor(), 60) << "what is left of it";
  EXPECT_TRUE(absl::IsOutOfRange(CreditNote(books_, request).status())) << "nothing is left of it";
  line->set_line(1);
  line->set_net_minor(101);
  EXPECT_TRUE(absl::IsOutOfRange(CreditNote(books_, request).status()));
  line->set_net_minor(-1);
  EXPECT_TRUE(absl::IsInvalidArgument(CreditNote(books_, request).status()));
  line->set_net_minor(1);
  line->set_line(3);
  EXPECT_TRUE(absl::IsInvalidArgument(CreditNote(books_, request).status())) << "there is none";
  line->set_line(1);
  *request.add_lines() = *line;
  EXPECT_TRUE(absl::IsInvalidArgument(CreditNote(books_, request).status())) << "named twice";
  ExpectSound(books_);
}

TEST_F(Receivables, CreditNoteRequestsAreChecked) {
  const v1::Invoice invoice = Invoice(100);
  v1::CreateCreditNoteRequest request;
  request.set_number(invoice.number());
  request.set_whole(true);
  EXPECT_TRUE(absl::IsInvalidArgument(CreditNote(books_, request).status())) << "no reason";
  request.set_reason(std::string(501, 'x'));
  EXPECT_TRUE(absl::IsInvalidArgument(CreditNote(books_, request).status()));
  request.set_reason("r");
  request.set_net_minor(5);
  EXPECT_TRUE(absl::IsInvalidArgument(CreditNote(books_, request).status())) << "whole or an amount?";
  request.set_whole(false);
  request.set_net_minor(0);
  EXPECT_TRUE(absl::IsInvalidArgument(CreditNote(books_, request).status())) << "nothing";
  request.set_net_minor(-5);
  EXPECT_TRUE(absl::IsInvalidArgument(CreditNote(books_, request).status()));
  request.set_net_minor(5);
  request.set_number("G2026-000099");
  EXPECT_TRUE(absl::IsNotFound(CreditNote(books_, request).status()));
  request.set_number(invoice.number());
  books_.Advance(-90 * kDayUs);
  EXPECT_TRUE(absl::IsFailedPrecondition(CreditNote(books_, request).status())) << "the clock is behind";
}

TEST_F(Receivables, ACreditNoteOfAPaidInvoicePaysWhatElseIsOpen) {
  const v1::Invoice first = Invoice(1'000);
  ASSERT_TRUE(Pay(books_, "acme", 12'000'000).ok());
  const v1::Invoice second = Invoice(2'000);
  EXPECT_EQ(OpenOf(second), 2'400);
  ASSERT_TRUE(CreditAmount(books_, first.number(), 500).ok());
  EXPECT_EQ(GetNumber(books_, first.number()).allocated_minor(), 600);
  EXPECT_EQ(OpenOf(second), 1'800) << "6.00 of the payment are free, and pay it";
  EXPECT_EQ(Posted(), -18'000'000);
  ExpectSound(books_);
}

// ---- void ----

TEST_F(Receivables, AVoidInvoiceKeepsItsNumberAndItsPeriodIsInvoicedAnew) {
  const v1::Invoice invoice = Invoice(1'001);
  const int64_t before = Posted();
  EXPECT_EQ(before, -12'010'000);
  const auto gone = Void(books_, invoice.number());
  ASSERT_TRUE(gone.ok()) << gone.status();
  EXPECT_EQ(gone->state(), "void");
  EXPECT_EQ(gone->reason(), "wrong address");
  EXPECT_EQ(gone->open_minor(), 0);
  EXPECT_EQ(Posted(), -10'010'000) << "usage alone";
  EXPECT_EQ(Get(books_, "acme", "2026-11").state(), "draft");
  ExpectSound(books_);
  EXPECT_TRUE(absl::IsFailedPrecondition(Void(books_, invoice.number()).status())) << "void already";
  EXPECT_TRUE(absl::IsFailedPrecondition(CreditAmount(books_, invoice.number(), 1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Pay(books_, "acme", 1'000'000, invoice.number()).status()));
  const auto anew = Finalize(books_, "acme", "2026-11");
  ASSERT_TRUE(anew.ok()) << anew.status();
  EXPECT_EQ(anew->number(), "G2026-000002");
  EXPECT_EQ(anew->total_minor(), invoice.total_minor());
  EXPECT_EQ(Posted(), before);
  EXPECT_EQ(GetNumber(books_, invoice.number()).state(), "void");
  EXPECT_EQ(Owed(), 12'010'000);
  ExpectSound(books_);
}

TEST_F(Receivables, PaidInvoicesAreNotVoided) {
  const v1::Invoice invoice = Invoice(1'000);
  ASSERT_TRUE(Pay(books_, "acme", 1'000'000).ok());
  const absl::Status refused = Void(books_, invoice.number()).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("gantry payment release --invoice G2026-000001"));
  ASSERT_TRUE(ReleaseFrom(books_, invoice.number()).ok());
  EXPECT_TRUE(Void(books_, invoice.number()).ok());
  v1::VoidInvoiceRequest request;
  request.set_number(invoice.number());
  const auto no_reason = books_.Try<v1::Invoice>([&](Database& db) { return VoidInvoice(db, request, 0); });
  EXPECT_TRUE(absl::IsInvalidArgument(no_reason.status()));
  EXPECT_TRUE(absl::IsNotFound(Void(books_, "G2026-000099").status()));
  ExpectSound(books_);
}

TEST_F(Receivables, LateUsageOfAVoidedPeriodStandsInIt) {
  const Id16 slice = books_.SliceOf(acme_, 2'000'000);
  const v1::Invoice invoice = Invoice(100);
  ASSERT_TRUE(Void(books_, invoice.number()).ok());
  v1::UsageRecord record = books_.Record(slice, 0, 1'250'000);
  record.set_party_id(acme_.ToBytes());
  record.set_age_ms(15ull * 86'400'000);  // ended in November
  books_.Append(record);
  books_.Append(books_.Witness(record, 1'250'000));
  const auto anew = Finalize(books_, "acme", "2026-11");
  EXPECT_EQ(anew->net_minor(), 200);
  EXPECT_EQ(anew->late_usage_size(), 0) << "it is of this very month";
  ExpectSound(books_);
}

// ---- lists, facts, statements ----

TEST_F(Receivables, OverdueInvoicesAreListedWithTheirDays) {
  const v1::Invoice first = Invoice(1'000);  // issued 2026-12-02, due 2026-12-16
  const auto list = [&](bool overdue_only) {
    v1::ListInvoicesRequest request;
    request.set_seller_name("house");
    request.set_overdue_only(overdue_only);
    request.set_open_only(true);
    std::string out;
    const auto found =
        books_.Get<v1::ListInvoicesResponse>([&](Database& db) { return ListInvoices(db, request, books_.now_us()); });
    for (const v1::InvoiceSummary& invoice : found.invoices()) {
      absl::StrAppend(&out, out.empty() ? "" : ", ", invoice.number(), " ", invoice.open_minor(), " ",
                      invoice.days_overdue());
    }
    return out;
  };
  EXPECT_EQ(first.due_on(), "2026-12-16");
  EXPECT_EQ(list(false), "G2026-000001 1200 0");
  EXPECT_EQ(list(true), "");
  books_.Advance(14 * kDayUs);
  EXPECT_EQ(list(true), "") << "the last day";
  books_.Advance(kDayUs);
  EXPECT_EQ(list(true), "G2026-000001 1200 1");
  books_.Do([&](Database& db) {
    const std::vector<InvoiceFact> facts = InvoiceFacts(db, books_.now_us());
    EXPECT_EQ(facts.size(), 1u);
    EXPECT_EQ(facts[0].number, first.number());
    EXPECT_EQ(facts[0].buyer_id, acme_);
    EXPECT_EQ(facts[0].seller_name, "house");
    EXPECT_EQ(facts[0].open_minor, 1'200);
    EXPECT_EQ(facts[0].days_overdue, 1);
    return absl::OkStatus();
  });
  ASSERT_TRUE(Pay(books_, "acme", 12'000'000).ok());
  EXPECT_EQ(list(true), "");
  books_.Do([&](Database& db) {
    EXPECT_THAT(InvoiceFacts(db, books_.now_us()), IsEmpty());
    return absl::OkStatus();
  });
}

TEST_F(Receivables, ListsComeInPages) {
  for (int i = 0; i < 3; ++i) Invoice(10);
  v1::ListInvoicesRequest request;
  request.set_party_name("acme");
  request.set_page_size(2);
  const auto list = [&] {
    return books_.Try<v1::ListInvoicesResponse>([&](Database& db) { return ListInvoices(db, request, 0); });
  };
  const auto first = list();
  ASSERT_EQ(first->invoices_size(), 2);
  request.set_page_token(first->next_page_token());
  const auto second = list();
  ASSERT_EQ(second->invoices_size(), 1);
  EXPECT_EQ(second->invoices(0).number(), "G2027-000001");
  EXPECT_EQ(second->next_page_token(), "");
  request.set_page_token("x");
  EXPECT_TRUE(absl::IsInvalidArgument(list().status()));
  request.clear_page_token();
  request.set_seller_name("nobody");
  EXPECT_TRUE(absl::IsNotFound(list().status()));
  request.clear_seller_name();
  request.set_party_name("nobody");
  EXPECT_TRUE(absl::IsNotFound(list().status()));
}

TEST_F(Receivables, AStatementLeadsFromOpeningToClosing) {
  const v1::Invoice first = Invoice(1'000);  // issued 2026-12-02
  ASSERT_TRUE(Pay(books_, "acme", 5'000'000).ok());
  const v1::Invoice second = Invoice(2'000);  // 2027-01-02
  ASSERT_TRUE(CreditAmount(books_, second.number(), 500).ok());
  ASSERT_TRUE(Pay(books_, "acme", 10'000'000).ok());
  const auto rows = [](const v1::Statement& statement) {
    std::vector<std::string> out;
    for (const v1::StatementEntry& entry : statement.entries()) {
      out.push_back(
          absl::StrCat(entry.day(), " ", entry.kind(), " ", entry.amount_micro(), " ", entry.balance_micro()));
    }
    return out;
  };
  const auto whole = StatementOf(books_, "acme");
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(whole->opening_micro(), 0);
  EXPECT_THAT(rows(*whole),
              ElementsAre("2026-12-02 invoice 12000000 12000000", "2026-12-02 payment -5000000 7000000",
                          "2027-01-02 invoice 24000000 31000000", "2027-01-02 credit_note -6000000 25000000",
                          "2027-01-02 payment -10000000 15000000"));
  EXPECT_EQ(whole->closing_micro(), 15'000'000);
  EXPECT_EQ(whole->open_minor(), 1'500);
  EXPECT_EQ(whole->unallocated_micro(), 0);
  EXPECT_EQ(whole->seller().name(), "House of Machines GmbH");
  const auto january = StatementOf(books_, "acme", "2027-01-01", "2027-01-31");
  EXPECT_EQ(january->opening_micro(), 7'000'000);
  EXPECT_EQ(january->entries_size(), 3);
  EXPECT_EQ(january->closing_micro(), 15'000'000);
  const auto between = StatementOf(books_, "acme", "2026-12-03", "2026-12-31");
  EXPECT_EQ(between->entries_size(), 0);
  EXPECT_EQ(between->opening_micro(), 7'000'000);
  EXPECT_EQ(between->closing_micro(), 7'000'000);
}

TEST_F(Receivables, StatementsOfNothingAndNobodyAreRefused) {
  EXPECT_TRUE(absl::IsNotFound(StatementOf(books_, "nobody").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(StatementOf(books_, "house").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(StatementOf(books_, "acme", "2026").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(StatementOf(books_, "acme", "2026-12-02", "2026-12-01").status()));
  EXPECT_EQ(StatementOf(books_, "acme")->entries_size(), 0);
}

TEST_F(Receivables, AStatementOfTooMuchIsRefused) {
  books_.Do([&](Database& db) -> absl::Status {
    absl::StatusOr<PartyRow> acme = PartyById(db, acme_);
    Journal journal(db);
    const Account& cash = journal.Open(acme->parent_no, "cash", "EUR");
    const Account& customer = journal.Open(acme->party_no, "customer", "EUR");
    for (size_t i = 0; i <= kStatementEntriesMax; ++i) {
      journal.Post({.debit_account = cash.account_no,
                    .credit_account = customer.account_no,
                    .amount_micro = 1,
                    .booked_us = books_.now_us()});
    }
    return absl::OkStatus();
  });
  EXPECT_TRUE(absl::IsOutOfRange(StatementOf(books_, "acme").status()));
  EXPECT_TRUE(StatementOf(books_, "acme", "2026-11-11", "2026-11-12").ok()) << "less time";
}

// ---- everything together, against the ledger ----

// What a statement must close with, from the ledger alone:
// owed = - balance - usage on no invoice + credit that was given and neither expired nor was deducted - carried over
int64_t OwedByLedger(Books& books, const std::string& party) {
  return books.Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
    Rows rows = db.Query(
        "WITH c AS (SELECT account_no, p.party_no, credit_micro - debit_micro AS balance FROM account a "
        "  JOIN party p USING (party_no) WHERE p.name = ? AND a.type = 'customer'), "
        "i AS (SELECT sum(usage_micro - unheld_micro) AS used, sum(promotion_micro) AS promoted, sum(carried_micro) AS "
        "  carried FROM invoice WHERE party_no IN (SELECT party_no FROM c) "
        "  AND invoice_no NOT IN (SELECT invoice_no FROM invoice_void)), "
        "t AS (SELECT "
        "  sum((t.kind = 3) * t.amount_micro) - sum((t.kind = 6) * t.amount_micro) AS usage, "
        "  sum((t.kind = 2) * t.amount_micro) - sum((t.kind = 7 AND l.kind = 1) * t.amount_micro) AS given "
        "  FROM transfer t JOIN c ON c.account_no IN (t.debit_account, t.credit_account) "
        "  LEFT JOIN credit_lot l ON t.kind = 7 AND l.lot_no = t.source) "
        "SELECT -c.balance - (coalesce(t.usage, 0) - coalesce(i.used, 0)) + coalesce(t.given, 0) "
        "- coalesce(i.promoted, 0) - coalesce(i.carried, 0) FROM c, i, t",
        party);
    return rows.Next() ? rows.Int(0) : -1;
  });
}

TEST_F(Receivables, WhateverHappensStatementLedgerAndAuditAgree) {
  for (const uint64_t seed : {1, 2, 3, 4, 5, 6}) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937_64 random(seed);
    std::vector<v1::Invoice> invoices;
    std::vector<v1::UsageRecord> records;
    for (int step = 0; step < 60; ++step) {
      const int64_t amount = 1 + static_cast<int64_t>(random() % 900);
      const v1::Invoice* some = invoices.empty() ? nullptr : &invoices[random() % invoices.size()];
      switch (random() % 10) {
        case 0:
        case 1:
        case 2: {
          v1::UsageRecord record =
              books_.Record(books_.SliceOf(acme_, 4'000'000), random() % 3'000'000, random() % 4'000'000);
          record.set_party_id(acme_.ToBytes());
          books_.Append(record);
          records.push_back(record);
          break;
        }
        case 3:
          Give(books_, "acme", amount * 10'007, random() % 2 ? kNeverExpires : books_.now_us() + 20 * kDayUs,
               static_cast<int64_t>(random() % 3) - 1);
          break;
        case 4:
          ASSERT_TRUE(Pay(books_, "acme", amount * 10'000, "", random() % 2 == 0).ok());
          break;
        case 5:
          if (some != nullptr) CreditAmount(books_, some->number(), random() % 4 == 0 ? 0 : amount).IgnoreError();
          break;
        case 6:
          if (some != nullptr) {
            ReleaseFrom(books_, some->number()).IgnoreError();
            if (Void(books_, some->number()).ok()) {
              const auto anew = Finalize(books_, "acme", some->period());
              ASSERT_TRUE(anew.ok()) << anew.status();
              invoices.push_back(*anew);
            }
          }
          break;
        case 7:
          Refund(books_, "acme", amount * 3'333).IgnoreError();
          AllocateTo(books_, "acme", 0, "").IgnoreError();
          books_.Do([&](Database& db) { return ExpireLots(db, books_.now_us(), 10).status(); });
          break;
        case 8:
          if (!records.empty()) {
            v1::CorrectUsageRequest request;
            request.set_request_id(records[random() % records.size()].request_id());
            request.set_prompt_tokens(random() % 3'000'000);
            request.set_output_tokens(random() % 4'000'000);
            request.set_reason("measured twice");
            books_.Do([&](Database& db) { return CorrectUsage(db, request, books_.now_us()).status(); });
          }
          break;
        default:
          Settle();
          invoices.push_back(EndMonth());
      }
      const auto statement = StatementOf(books_, "acme");
      ASSERT_TRUE(statement.ok()) << statement.status();
      ASSERT_EQ(statement->closing_micro(), OwedByLedger(books_, "acme")) << "step " << step;
    }
    ExpectSound(books_);
  }
}

}  // namespace
}  // namespace gantry::billing
