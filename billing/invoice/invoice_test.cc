#include "billing/invoice/invoice.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

constexpr int64_t kDayUs = 86'400'000'000;

v1::Invoice Get(Books& books, const std::string& period) {
  v1::GetInvoiceRequest request;
  request.set_party_name("demo");
  request.set_period(period);
  return books.Get<v1::Invoice>([&](Database& db) { return GetInvoice(db, request); });
}

absl::StatusOr<v1::Invoice> Finalize(Books& books, const std::string& party, const std::string& period) {
  v1::FinalizeInvoiceRequest request;
  request.set_party_name(party);
  request.set_period(period);
  absl::StatusOr<v1::Invoice> invoice = absl::UnknownError("");
  books.store()
      .WriteAndWait([&](Database& db) {
        invoice = FinalizeInvoice(db, request, books.now_us());
        return invoice.status();
      })
      .IgnoreError();
  return invoice;
}

void Use(Books& books, const Id16& slice, uint64_t prompt, uint64_t cached, uint64_t output) {
  v1::UsageRecord record = books.Record(slice, prompt, output);
  record.set_cached_tokens(cached);
  books.Append(record);
  books.Append(books.Witness(record, output));
}

TEST(Invoice, LinesAreUsageTimesPriceRoundedOnce) {
  Books books;
  const Id16 slice = books.Slice(9'000'000);
  Use(books, slice, 1'000'000, 250'000, 2'000'000);
  Use(books, slice, 10, 0, 6'250);
  books.Append(books.Record(slice, 100, 0, v1::USAGE_OUTCOME_FAILED));
  v1::Invoice invoice = Get(books, "2026-11");
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
  v1::Invoice invoice = Get(books, "2025-01");
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
}

TEST(Invoice, FinalOnesAreNumberedWithoutGapsAndNeverChange) {
  Books books;
  books.NewTenant("acme", 0);
  const Id16 slice = books.Slice(9'000'000);
  Use(books, slice, 1'000'000, 0, 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(Finalize(books, "demo", "2026-11").status())) << "the month is not over";
  books.Advance(25 * kDayUs);
  auto first = Finalize(books, "demo", "2026-11");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->number(), "G2026-000001");
  EXPECT_EQ(Finalize(books, "demo", "2026-11")->number(), "G2026-000001") << "again";
  EXPECT_EQ(Finalize(books, "acme", "2026-11")->number(), "G2026-000002");

  // Usage that comes late stands on the next invoice, with its own date.
  v1::UsageRecord late = books.Record(slice, 500'000, 0);
  late.set_age_ms(20ull * 86'400'000);
  books.Append(late);
  EXPECT_EQ(Get(books, "2026-11").SerializeAsString(), first->SerializeAsString());
  EXPECT_EQ(Get(books, "2026-12").lines(0).quantity(), 500'000u);
  EXPECT_TRUE(books.Audited().ok());
}

TEST(Invoice, WaitsForWitnesses) {
  Books books;
  v1::UsageRecord record = books.Record(books.Slice(1'000'000), 10, 10);
  books.Append(record);
  books.Advance(25 * kDayUs);
  absl::Status status = Finalize(books, "demo", "2026-11").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "witness")) << status;
  books.Append(books.Witness(record, 10));
  EXPECT_TRUE(Finalize(books, "demo", "2026-11").ok());
}

TEST(Invoice, IsRefusedWhileTheClockIsBehindTheBooks) {
  Books books;
  books.Advance(60 * kDayUs);
  books.NewTenant("acme", 5);
  books.Advance(-30 * kDayUs);
  EXPECT_TRUE(absl::IsFailedPrecondition(Finalize(books, "demo", "2026-11").status()));
}

TEST(Invoice, MinorDigitsFollowTheCurrency) {
  EXPECT_EQ(MinorDigits("EUR"), 2);
  EXPECT_EQ(MinorDigits("JPY"), 0);
  EXPECT_EQ(MinorDigits("KWD"), 3);
}

}  // namespace
}  // namespace gantry::billing
