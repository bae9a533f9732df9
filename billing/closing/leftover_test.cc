// What is left at the end of a party, whatever its documents were: money that it has paid goes back, with tax; what was
// given does not; and it always ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "billing/closing/closing.h"
#include "billing/invoice/invoice_test_util.h"
#include "billing/ledger/credit.h"
#include "billing/usage/correct.h"
#include "billing/usage/witness_match.h"
#include "engine/base/long_test_util.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

// A customer "acme" of whom documents are made; usage at 1 micro-unit a token.
class Customer {
 public:
  explicit Customer(int64_t tax_ppm = 200'000, int64_t limit_micro = 0, int64_t minimum_micro = 0) {
    ChargeTax(books_, tax_ppm);
    acme_ = books_.NewTenant("acme", 0);
    books_.Do([&](Database& db) {
      db.Execute("UPDATE party SET credit_limit_micro = ? WHERE name = 'acme'", limit_micro);
      return absl::OkStatus();
    });
    SellOutput(books_, minimum_micro);
  }

  Books& books() { return books_; }
  // False when that much is not there.
  bool Use(int64_t micro) {
    const Id16 slice = books_.SliceOf(acme_, micro);
    if (slice.IsZero()) return false;
    v1::UsageRecord record = books_.Record(slice, 0, static_cast<uint64_t>(micro));
    record.set_party_id(acme_.ToBytes());
    record.set_plan_version_id(books_.PlanOf(acme_).ToBytes());
    books_.Append(record);
    books_.Do([&](Database& db) {
      v1::ReturnSliceRequest request;
      request.set_slice_id(slice.ToBytes());
      request.set_close(true);
      return ReturnSlice(db, request, books_.now_us()).status();
    });
    requests_.push_back(record.request_id());
    return true;
  }
  size_t requests() const { return requests_.size(); }
  absl::Status Correct(size_t which, int64_t micro) {
    v1::CorrectUsageRequest request;
    request.set_request_id(requests_[which]);
    request.set_output_tokens(static_cast<uint64_t>(micro));
    request.set_reason("measured twice");
    return books_.Try<v1::UsageRow>([&](Database& db) { return CorrectUsage(db, request, books_.now_us()); }).status();
  }
  // The month that runs is over; its invoice.
  v1::Invoice EndMonth() {
    const std::string period = Month(month_++);
    books_.SetTime(Get(books_, "acme", period).period_to_us() + kDayUs);
    Settle();
    const auto invoice = Finalize(books_, "acme", period);
    EXPECT_TRUE(invoice.ok()) << invoice.status();
    return invoice.value_or(v1::Invoice());
  }
  std::string ThisMonth() const { return Month(month_); }
  // Nothing waits for a witness any more.
  void Settle() {
    books_.Do([&](Database& db) { return ExpireWaiting(db, books_.now_us(), books_.now_us()); });
  }
  void Close(v1::Leftover leftover) {
    v1::ClosePartyRequest request;
    request.set_party_name("acme");
    request.set_leftover(leftover);
    request.set_reason("the contract ended");
    books_.Do([&](Database& db) { return CloseParty(db, request, books_.now_us()).status(); });
    Settle();
  }
  v1::Closing Sweep() {
    books_.Do([&](Database& db) { return FinishClosings(db, absl::OkStatus(), books_.now_us()); });
    v1::GetClosingRequest request;
    request.set_party_name("acme");
    return books_.Get<v1::Closing>([&](Database& db) { return GetClosing(db, request); });
  }
  v1::Closing End(v1::Leftover leftover = v1::LEFTOVER_REFUND) {
    Close(leftover);
    return Sweep();
  }
  // It has ended: nothing is left, open or owed, by its lots, its documents and its payments.
  void ExpectEnded(const v1::Closing& closing) {
    ASSERT_GT(closing.done_us(), 0) << closing.waits_for();
    EXPECT_EQ(books_.FundsOfParty(acme_).posted_micro, 0);
    EXPECT_EQ(Count("SELECT sum(left_micro) FROM credit_lot JOIN account USING (account_no) WHERE party_no = ?"), 0);
    EXPECT_EQ(Count("SELECT sum(open) FROM receivable WHERE party_no = ?"), 0);
    const auto statement = StatementOf(books_, closing.party_name());
    ASSERT_TRUE(statement.ok()) << statement.status();
    EXPECT_EQ(statement->closing_micro(), 0) << statement->DebugString();
    EXPECT_EQ(statement->unallocated_micro(), 0);
    const v1::AuditReport report = books_.Audited();
    EXPECT_TRUE(report.ok()) << report.DebugString();
  }
  // What it has paid and was not billed, in the end, nor refunded; of what it has paid nothing must have expired.
  int64_t PaidBeyondDocuments() {
    return Count("SELECT sum(amount_micro - refunded_micro) FROM payment WHERE party_no = ?") -
           10'000 *
               Count("SELECT sum((gross_minor - credited_minor) * (1 - voided)) FROM receivable WHERE party_no = ?");
  }
  int64_t Count(const char* sql) {
    return books_.Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
      const absl::StatusOr<PartyRow> party = PartyById(db, acme_);
      if (!party.ok()) return party.status();
      Rows rows = db.Query(sql, party->party_no);
      return rows.Next() ? rows.Int(0) : 0;
    });
  }

 private:
  static std::string Month(int64_t month) { return absl::StrFormat("%04d-%02d", 2026 + month / 12, month % 12 + 1); }

  Books books_;
  Id16 acme_;
  std::vector<std::string> requests_;
  int64_t month_ = 10;  // of 2026, from 0
};

TEST(Leftover, WhatWasCorrectedAfterItHadBeenPaidIsRefundedWithItsTax) {
  Customer acme;
  Pay(acme.books(), "acme", 20'000'000).value();
  acme.Use(8'000'000);
  const v1::Invoice invoice = acme.EndMonth();  // 9.60, paid
  ASSERT_TRUE(acme.Correct(0, 3'000'000).ok());
  const v1::Closing closing = acme.End();
  acme.ExpectEnded(closing);
  EXPECT_EQ(closing.refunded_micro(), 20'000'000 - 3'600'000);
  EXPECT_EQ(closing.kept_micro(), 0);
  ASSERT_EQ(closing.credit_notes_size(), 1);
  const v1::Invoice note = GetNumber(acme.books(), closing.credit_notes(0));
  EXPECT_EQ(note.original_number(), invoice.number());
  EXPECT_EQ(note.net_minor(), 500);
  EXPECT_EQ(note.tax_minor(), 100);
}

TEST(Leftover, CreditThatPaidAMonthAfterItsEndIsDeductedAtTheEnd) {
  Customer acme(200'000, /*limit_micro=*/50'000'000);
  acme.Use(8'000'000);
  acme.EndMonth();
  Give(acme.books(), "acme", 5'000'000);         // pays 5 of the debt
  Pay(acme.books(), "acme", 9'600'000).value();  // the whole invoice
  const v1::Closing closing = acme.End();
  acme.ExpectEnded(closing);
  EXPECT_EQ(closing.refunded_micro(), 6'000'000) << "5 and its tax";
  EXPECT_EQ(closing.credit_notes_size(), 1);
}

TEST(Leftover, WhatGivenCreditPaidOfAnInvoiceIsNotOpenForEver) {
  Customer acme(0, /*limit_micro=*/50'000'000);
  acme.Use(8'000'000);
  acme.EndMonth();
  Give(acme.books(), "acme", 8'000'000);
  const v1::Closing closing = acme.End();
  acme.ExpectEnded(closing);
  EXPECT_EQ(closing.refunded_micro(), 0) << "nobody has paid anything";
}

TEST(Leftover, WhatCameBackTwiceIsKeptAndSaid) {
  Customer acme;
  Pay(acme.books(), "acme", 9'600'000).value();
  acme.Use(8'000'000);
  ASSERT_TRUE(CreditAmount(acme.books(), acme.EndMonth().number(), 0).ok());
  ASSERT_TRUE(acme.Correct(0, 0).ok());
  const v1::Closing closing = acme.End();
  acme.ExpectEnded(closing);
  EXPECT_EQ(closing.refunded_micro(), 9'600'000) << "no more than was paid";
  EXPECT_EQ(closing.kept_micro(), 8'000'000);
  EXPECT_EQ(closing.unpaid_micro(), 8'000'000);
  const auto statement = StatementOf(acme.books(), closing.party_name());
  ASSERT_TRUE(statement.ok());
  std::vector<std::string> ends;
  for (const v1::StatementEntry& entry : statement->entries()) {
    if (entry.at_us() == closing.done_us()) ends.push_back(absl::StrCat(entry.kind(), " ", entry.amount_micro()));
  }
  EXPECT_THAT(ends, testing::IsSupersetOf({"unpaid -8000000", "kept 8000000", "refund 9600000"}));
}

TEST(Leftover, WhatIsCorrectedAfterTheLastInvoiceIsOnOneOfAMonthThatHasNotBegun) {
  Customer acme;
  Pay(acme.books(), "acme", 9'600'000).value();
  acme.Use(8'000'000);
  acme.Close(v1::LEFTOVER_REFUND);
  const auto last = Finalize(acme.books(), "acme", acme.ThisMonth());
  ASSERT_TRUE(last.ok()) << last.status();
  ASSERT_TRUE(acme.Correct(0, 3'000'000).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Finalize(acme.books(), "acme", "2027-03").status())) << "nothing is in it";
  const v1::Closing closing = acme.Sweep();
  acme.ExpectEnded(closing);
  EXPECT_EQ(closing.refunded_micro(), 6'000'000);
}

TEST(Leftover, PaymentsThatWereHeldBackPayWhatIsOpen) {
  Customer acme(200'000, /*limit_micro=*/50'000'000);
  acme.Use(8'000'000);
  acme.EndMonth();
  Pay(acme.books(), "acme", 20'000'000, "", /*hold_back=*/true).value();
  const v1::Closing closing = acme.End();
  acme.ExpectEnded(closing);
  EXPECT_EQ(closing.refunded_micro(), 10'400'000);
}

TEST(Leftover, PartsOfACentThatSeveralPaymentsHaveLeftPayTogether) {
  Customer acme(0);
  for (int i = 0; i < 2; ++i) {
    const uint64_t payment = Pay(acme.books(), "acme", 1'000'000)->payment();
    ASSERT_TRUE(Refund(acme.books(), "acme", 5'000, payment).ok());
  }
  ASSERT_TRUE(acme.Use(1'990'000));
  const v1::Invoice invoice = acme.EndMonth();
  EXPECT_EQ(invoice.due_minor(), 1) << "no payment has a whole cent for it";
  const v1::Closing closing = acme.End();
  acme.ExpectEnded(closing);
  EXPECT_EQ(closing.refunded_micro(), 0);
}

TEST(Leftover, OfWhatIsKeptNothingIsSaidToBeUnpaidThatWasPaid) {
  Customer acme;
  Pay(acme.books(), "acme", 20'000'000).value();
  Give(acme.books(), "acme", 1'000'000);
  acme.Use(8'000'000);
  acme.EndMonth();  // 7.00 and 1.40
  ASSERT_TRUE(acme.Correct(0, 3'000'000).ok());
  const v1::Closing closing = acme.End(v1::LEFTOVER_KEEP);
  acme.ExpectEnded(closing);
  EXPECT_EQ(closing.refunded_micro(), 0);
  EXPECT_EQ(closing.kept_micro(), 20'000'000 - 2'400'000);
  EXPECT_EQ(closing.unpaid_micro(), 0);
}

// Anything that administrators can do, in any order; then the end.
class History {
 public:
  explicit History(uint64_t seed)
      : random_(seed),
        acme_(seed % 3 == 0 ? 0 : 190'000, seed % 2 == 0 ? 0 : 20'000'000, seed % 4 == 1 ? 3'000'000 : 0) {}

  void Step() {
    Books& books = acme_.books();
    const int64_t amount = 1 + Random(900);
    switch (Random(11)) {
      case 0:
      case 1:
      case 2:
        acme_.Use(amount * 7'919);
        break;
      case 3:
        Give(books, "acme", amount * 10'007, Random(2) == 0 ? kNeverExpires : books.now_us() + 20 * kDayUs,
             Random(3) - 1);
        break;
      case 4:
        EXPECT_TRUE(Pay(books, "acme", amount * 10'000, "", Random(2) == 0).ok());
        break;
      case 5:
        if (!invoices_.empty()) CreditAmount(books, Some().number(), Random(2) == 0 ? 0 : amount).IgnoreError();
        break;
      case 6:
        if (!invoices_.empty()) {
          ReleaseFrom(books, Some().number()).IgnoreError();
          // Sometimes its month is left to the end.
          if (const v1::Invoice gone = Some(); Void(books, gone.number()).ok() && Random(2) == 0) {
            const auto anew = Finalize(books, "acme", gone.period());
            EXPECT_TRUE(anew.ok()) << anew.status();
            invoices_.push_back(*anew);
          }
        }
        break;
      case 7:
        Refund(books, "acme", amount * 3'333).IgnoreError();
        AllocateTo(books, "acme", 0, "").IgnoreError();
        books.Do([&](Database& db) { return ExpireLots(db, books.now_us(), 10).status(); });
        break;
      case 8:
      case 9:
        if (acme_.requests() > 0) {
          acme_.Correct(static_cast<size_t>(Random(static_cast<int64_t>(acme_.requests()))), Random(900) * 7'919)
              .IgnoreError();
        }
        break;
      default:
        invoices_.push_back(acme_.EndMonth());
    }
  }
  // It pays what it owes, if it owes something. What it was asked for.
  v1::Closing End() {
    const auto in_hand = [&] {
      return acme_.Count("SELECT sum(amount_micro - refunded_micro) FROM payment WHERE party_no = ?");
    };
    int64_t before = in_hand();
    v1::Closing closing = acme_.End(Random(4) == 0 ? v1::LEFTOVER_KEEP : v1::LEFTOVER_REFUND);
    if (int64_t owed = 0;
        absl::StartsWith(closing.waits_for(), "it to pay ") &&
        absl::SimpleAtoi(closing.waits_for().substr(10, closing.waits_for().find(' ', 10) - 10), &owed)) {
      EXPECT_TRUE(Pay(acme_.books(), "acme", (owed + 9'999) / 10'000 * 10'000).ok());
      before = in_hand();
      closing = acme_.Sweep();
    }
    acme_.ExpectEnded(closing);
    EXPECT_EQ(before - in_hand(), closing.refunded_micro());
    if (closing.leftover() == v1::LEFTOVER_REFUND) {
      EXPECT_EQ(acme_.PaidBeyondDocuments(), 0) << "all that it paid beyond what it was billed went back, and no more";
    }
    return closing;
  }

 private:
  int64_t Random(int64_t below) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(below)); }
  const v1::Invoice& Some() { return invoices_[static_cast<size_t>(Random(static_cast<int64_t>(invoices_.size())))]; }

  std::mt19937_64 random_;
  Customer acme_;
  std::vector<v1::Invoice> invoices_;
};

TEST(Leftover, EveryHistoryEnds) {
  int refunds = 0, notes = 0, unpaid = 0;
  const int histories = engine::LongTests() ? 3'000 : 60;
  for (int seed = 1; seed <= histories; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    History history(static_cast<uint64_t>(seed));
    for (int step = 0; step < 40; ++step) history.Step();
    const v1::Closing closing = history.End();
    refunds += closing.refunded_micro() > 0 ? 1 : 0;
    notes += closing.credit_notes_size() > 0 ? 1 : 0;
    unpaid += closing.unpaid_micro() > 0 ? 1 : 0;
    if (HasFatalFailure()) return;
  }
  printf("%d ended: %d with a refund, %d with credit notes, %d with credit that nobody had paid\n", histories, refunds,
         notes, unpaid);
  EXPECT_GT(refunds, 10);
  EXPECT_GT(notes, 10);
}

}  // namespace
}  // namespace gantry::billing
