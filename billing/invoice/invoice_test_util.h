// For tests of invoices: the calls that administrators make, on the books of a test (billing/testing/books.h).
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "billing/catalog/plans.h"
#include "billing/invoice/credit_note.h"
#include "billing/invoice/dates.h"
#include "billing/invoice/invoice.h"
#include "billing/invoice/payments.h"
#include "billing/invoice/profile.h"
#include "billing/invoice/receivables.h"
#include "billing/invoice/statement.h"
#include "billing/ledger/lots.h"
#include "billing/testing/books.h"

namespace gantry::billing {

inline constexpr int64_t kDayUs = 86'400'000'000;

inline absl::StatusOr<v1::Invoice> Finalize(Books& books, const std::string& party, const std::string& period) {
  v1::FinalizeInvoiceRequest request;
  request.set_party_name(party);
  request.set_period(period);
  return books.Try<v1::Invoice>([&](Database& db) { return FinalizeInvoice(db, request, books.now_us()); });
}

inline v1::Invoice Get(Books& books, const std::string& party, const std::string& period) {
  v1::GetInvoiceRequest request;
  request.set_party_name(party);
  request.set_period(period);
  return books.Get<v1::Invoice>([&](Database& db) { return GetInvoice(db, request); });
}

inline v1::Invoice GetNumber(Books& books, const std::string& number) {
  return books.Get<v1::Invoice>([&](Database& db) { return GetDocument(db, number); });
}

inline absl::StatusOr<v1::BillingProfile> SetProfile(Books& books, const v1::BillingProfile& profile) {
  v1::SetBillingProfileRequest request;
  *request.mutable_profile() = profile;
  return books.Try<v1::BillingProfile>([&](Database& db) { return SetBillingProfile(db, request, books.now_us()); });
}

// The house sells at 20 % tax; due after 14 days.
inline void ChargeTax(Books& books, int64_t rate_ppm = 200'000) {
  v1::BillingProfile house;
  house.set_party_name("house");
  house.set_legal_name("House of Machines GmbH");
  house.add_address_lines("Ring 1");
  house.set_country("AT");
  house.set_vat_id("ATU12345678");
  house.set_terms_days(14);
  house.add_payment_lines("IBAN AT00 0000 0000 0000 0000");
  house.mutable_sells_with()->set_category(rate_ppm > 0 ? v1::TAX_CATEGORY_S : v1::TAX_CATEGORY_Z);
  house.mutable_sells_with()->set_rate_ppm(rate_ppm);
  EXPECT_TRUE(SetProfile(books, house).ok());
}

// From the next moment on output costs a micro-unit a token, the rest nothing, and a month at least `minimum_micro`.
inline void SellOutput(Books& books, int64_t minimum_micro) {
  books.Do([&](Database& db) {
    v1::PublishPlanVersionRequest plan;
    plan.set_plan("standard");
    plan.set_currency("EUR");
    plan.set_commitment_micro(minimum_micro);
    for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
      v1::PriceLine* line = plan.add_lines();
      line->set_model_glob("*");
      line->set_token_class(static_cast<v1::TokenClass>(c));
      line->set_price_micro_per_m(c == v1::TOKEN_CLASS_OUTPUT ? 1'000'000 : 0);
    }
    return PublishPlanVersion(db, plan, books.now_us()).status();
  });
  books.Advance(1);
}

// A request that both witnesses saw.
inline void Use(Books& books, const Id16& slice, uint64_t prompt, uint64_t cached, uint64_t output,
                uint64_t age_ms = 0) {
  v1::UsageRecord record = books.Record(slice, prompt, output);
  record.set_cached_tokens(cached);
  record.set_age_ms(age_ms);
  books.Append(record);
  books.Append(books.Witness(record, output));
}

// To 2026-12-05: November is over everywhere.
inline void NextMonth(Books& books) {
  books.Advance(25 * kDayUs);
}

inline absl::StatusOr<v1::Payment> Pay(Books& books, const std::string& party, int64_t micro,
                                       const std::string& invoice = "", bool hold_back = false) {
  v1::RecordPaymentRequest request;
  request.set_party_name(party);
  request.set_amount_micro(micro);
  request.set_method("bank transfer");
  request.set_reference("wire");
  request.set_invoice_number(invoice);
  request.set_hold_back(hold_back);
  return books.Try<v1::Payment>([&](Database& db) { return RecordPayment(db, request, books.now_us()); });
}

inline absl::StatusOr<v1::RefundPaymentResponse> Refund(Books& books, const std::string& party, int64_t micro,
                                                        uint64_t payment = 0) {
  v1::RefundPaymentRequest request;
  request.set_party_name(party);
  request.set_amount_micro(micro);
  request.set_payment(payment);
  request.set_reference("wire back");
  return books.Try<v1::RefundPaymentResponse>([&](Database& db) { return RefundPayment(db, request, books.now_us()); });
}

inline absl::StatusOr<v1::AllocatePaymentResponse> AllocateTo(Books& books, const std::string& party, uint64_t payment,
                                                              const std::string& invoice, int64_t minor = 0) {
  v1::AllocatePaymentRequest request;
  request.set_party_name(party);
  request.set_payment(payment);
  request.set_invoice_number(invoice);
  request.set_amount_minor(minor);
  return books.Try<v1::AllocatePaymentResponse>(
      [&](Database& db) { return AllocatePayment(db, request, books.now_us()); });
}

inline absl::StatusOr<v1::AllocatePaymentResponse> ReleaseFrom(Books& books, const std::string& invoice,
                                                               uint64_t payment = 0) {
  v1::ReleaseAllocationsRequest request;
  request.set_invoice_number(invoice);
  request.set_payment(payment);
  return books.Try<v1::AllocatePaymentResponse>(
      [&](Database& db) { return ReleaseAllocations(db, request, books.now_us()); });
}

inline absl::StatusOr<v1::Invoice> Void(Books& books, const std::string& number) {
  v1::VoidInvoiceRequest request;
  request.set_number(number);
  request.set_reason("wrong address");
  return books.Try<v1::Invoice>([&](Database& db) { return VoidInvoice(db, request, books.now_us()); });
}

inline absl::StatusOr<v1::Invoice> CreditNote(Books& books, const v1::CreateCreditNoteRequest& request) {
  return books.Try<v1::Invoice>([&](Database& db) { return CreateCreditNote(db, request, books.now_us()); });
}

inline absl::StatusOr<v1::Invoice> CreditAmount(Books& books, const std::string& number, int64_t net_minor) {
  v1::CreateCreditNoteRequest request;
  request.set_number(number);
  request.set_reason("slow days");
  if (net_minor == 0) {
    request.set_whole(true);
  } else {
    request.set_net_minor(net_minor);
  }
  return CreditNote(books, request);
}

inline void Give(Books& books, const std::string& party, int64_t micro, int64_t expires_us = kNeverExpires,
                 int64_t priority = 0) {
  books.Do([&](Database& db) {
    absl::StatusOr<PartyRow> row = PartyByName(db, party);
    if (!row.ok()) return row.status();
    return PostCredit(db, *row,
                      {.amount_micro = micro,
                       .kind = LotKind::kPromotional,
                       .priority = priority,
                       .expires_us = expires_us,
                       .reference = "welcome"},
                      books.now_us());
  });
}

inline absl::StatusOr<v1::Statement> StatementOf(Books& books, const std::string& party, const std::string& from = "",
                                                 const std::string& to = "") {
  v1::GetStatementRequest request;
  request.set_party_name(party);
  request.set_from(from);
  request.set_to(to);
  return books.Try<v1::Statement>([&](Database& db) { return GetStatement(db, request, books.now_us()); });
}

}  // namespace gantry::billing
