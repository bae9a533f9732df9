// Credit that was given stays what it is, whatever becomes of the documents that it paid: it is never money that can be
// refunded, and keeps its expiry.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "billing/invoice/invoice_test_util.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

// A customer "acme" that may go 100 below zero, on a plan with a minimum of 5 a month; 20 % tax.
class Gifts : public testing::Test {
 protected:
  Gifts() {
    ChargeTax(books_);
    acme_ = books_.NewTenant("acme", 0);
    books_.Do([&](Database& db) {
      db.Execute("UPDATE party SET credit_limit_micro = 100000000 WHERE name = 'acme'");
      return absl::OkStatus();
    });
    SellOutput(books_, /*minimum_micro=*/5'000'000);
  }

  // One request of 1 micro-unit a token.
  void UseMicro(int64_t micro) {
    v1::UsageRecord record = books_.Record(books_.SliceOf(acme_, micro), 0, static_cast<uint64_t>(micro));
    record.set_party_id(acme_.ToBytes());
    record.set_plan_version_id(books_.PlanOf(acme_).ToBytes());
    books_.Append(record);
    books_.Append(books_.Witness(record, record.output_tokens()));
  }
  v1::Invoice November() {
    if (books_.now_us() < Get(books_, "acme", "2026-11").period_to_us()) NextMonth(books_);
    const auto invoice = Finalize(books_, "acme", "2026-11");
    EXPECT_TRUE(invoice.ok()) << invoice.status();
    return invoice.value_or(v1::Invoice());
  }
  void VoidIt(const v1::Invoice& invoice) {
    ReleaseFrom(books_, invoice.number()).IgnoreError();
    const auto gone = Void(books_, invoice.number());
    EXPECT_TRUE(gone.ok()) << gone.status();
  }
  void CreditWhole(const v1::Invoice& invoice) {
    const auto note = CreditAmount(books_, invoice.number(), 0);
    EXPECT_TRUE(note.ok()) << note.status();
  }
  // "given 1 bought 2", as lots have it.
  std::string Left() {
    const auto left = [&](LotKind kind) {
      return books_.Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
        Rows rows = db.Query(
            "SELECT coalesce(sum(l.left_micro), 0) FROM credit_lot l JOIN account a USING (account_no) JOIN party p "
            "USING (party_no) WHERE p.name = 'acme' AND l.kind = ?",
            static_cast<int64_t>(kind));
        return rows.Next() ? rows.Int(0) : -1;
      });
    };
    return absl::StrCat("given ", left(LotKind::kPromotional), " bought ", left(LotKind::kBought));
  }
  void ExpectRefundable(int64_t micro) {
    const auto more = Refund(books_, "acme", micro + 1);
    EXPECT_TRUE(absl::IsFailedPrecondition(more.status()));
    EXPECT_THAT(std::string(more.status().message()), HasSubstr(absl::StrCat("at most ", micro, " can")));
  }
  void ExpectSound() {
    const v1::AuditReport report = books_.Audited();
    EXPECT_TRUE(report.ok()) << report.DebugString();
  }

  Books books_;
  Id16 acme_;
};

TEST_F(Gifts, ThatPaidAMinimumComeBackWhenTheInvoiceIsVoid) {
  Pay(books_, "acme", 10'000'000).value();
  Give(books_, "acme", 2'000'000);
  UseMicro(500'000);
  const v1::Invoice first = November();  // minimum 4.50: 1.50 given, 3.00 paid; tax 0.60
  EXPECT_EQ(Left(), "given 0 bought 6400000");
  VoidIt(first);
  EXPECT_EQ(Left(), "given 1500000 bought 10000000");
  ExpectRefundable(10'000'000);
  const v1::Invoice again = November();
  EXPECT_EQ(again.total_minor(), first.total_minor());
  EXPECT_EQ(Left(), "given 0 bought 6400000");
  VoidIt(again);
  EXPECT_EQ(Left(), "given 1500000 bought 10000000");
  ExpectSound();
}

TEST_F(Gifts, ThatHaveExpiredSinceExpireAgain) {
  Give(books_, "acme", 2'000'000, books_.now_us() + 30 * kDayUs);
  const v1::Invoice invoice = November();
  books_.Advance(10 * kDayUs);
  VoidIt(invoice);
  EXPECT_EQ(Left(), "given 2000000 bought 0");
  books_.Do([&](Database& db) { return ExpireLots(db, books_.now_us(), 10).status(); });
  EXPECT_EQ(Left(), "given 0 bought 0");
  EXPECT_EQ(books_.Int("SELECT credit_micro FROM account WHERE type = 'breakage'"), 2'000'000);
  ExpectSound();
}

TEST_F(Gifts, ThatPaidAnInvoiceOnTheLimitComeBackWhenItIsVoid) {
  const v1::Invoice invoice = November();  // minimum 5.00, tax 1.00, nothing there to pay with
  EXPECT_EQ(books_.FundsOfParty(acme_).posted_micro, -6'000'000);
  Give(books_, "acme", 10'000'000);
  EXPECT_EQ(Left(), "given 4000000 bought 0");
  VoidIt(invoice);
  EXPECT_EQ(Left(), "given 10000000 bought 0");
  ExpectSound();
}

TEST_F(Gifts, ThatPaidTaxComeBackByACreditNote) {
  Pay(books_, "acme", 8'000'000).value();
  Give(books_, "acme", 5'000'000, kNeverExpires, /*priority=*/1);
  UseMicro(8'000'000);
  const v1::Invoice invoice = November();  // tax 1.60: nothing that was bought is left
  EXPECT_EQ(Left(), "given 3400000 bought 0");
  const auto part = CreditAmount(books_, invoice.number(), 400);  // 4.00, tax 0.80
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_EQ(Left(), "given 4200000 bought 4000000");
  CreditWhole(invoice);
  EXPECT_EQ(Left(), "given 5000000 bought 8000000");
  ExpectRefundable(8'000'000);
  ExpectSound();
}

TEST_F(Gifts, ThatPaidTheMonthAfterItsEndComeBackByACreditNote) {
  UseMicro(8'000'000);
  NextMonth(books_);
  Give(books_, "acme", 5'000'000);
  const v1::Invoice invoice = November();  // credit of December is deducted from December
  EXPECT_EQ(invoice.total_minor(), 960);
  EXPECT_EQ(books_.FundsOfParty(acme_).posted_micro, -4'600'000);
  CreditWhole(invoice);
  EXPECT_EQ(Left(), "given 5000000 bought 0") << "nobody has paid anything";
  ExpectSound();
}

TEST_F(Gifts, ThatAnInvoiceDeductedAreNotGivenAgainByItsCreditNote) {
  UseMicro(8'000'000);
  Give(books_, "acme", 5'000'000);
  const v1::Invoice invoice = November();  // 3.00 and tax
  EXPECT_EQ(invoice.total_minor(), 360);
  Pay(books_, "acme", 3'600'000).value();
  CreditWhole(invoice);
  EXPECT_EQ(Left(), "given 0 bought 3600000");
  ExpectRefundable(3'600'000);
  ExpectSound();
}

TEST_F(Gifts, OfALaterMonthAreNotTakenForWhatWasPaid) {
  Pay(books_, "acme", 9'600'000).value();
  UseMicro(8'000'000);
  const v1::Invoice invoice = November();
  EXPECT_EQ(Left(), "given 0 bought 0");
  Give(books_, "acme", 5'000'000);
  UseMicro(5'000'000);  // of December, on no invoice yet
  CreditWhole(invoice);
  EXPECT_EQ(Left(), "given 0 bought 9600000");
  ExpectRefundable(9'600'000);
  ExpectSound();
}

}  // namespace
}  // namespace gantry::billing
