// Books of before invoices were booked (schema version 4): what they hold comes along.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "billing/audit/audit.h"
#include "billing/invoice/credit_note.h"
#include "billing/invoice/invoice.h"
#include "billing/invoice/payments.h"
#include "billing/ledger/ledger.h"
#include "billing/store/chain.h"
#include "billing/store/store.h"

namespace gantry::billing {
namespace {

constexpr int64_t kNovemberUs = 1'794'312'000'000'000;  // 2026-11-10 12:00 UTC
constexpr int64_t kDecemberUs = kNovemberUs + 25 * int64_t{86'400'000'000};
constexpr int64_t kJanuaryUs = kDecemberUs + 31 * int64_t{86'400'000'000};

std::unique_ptr<Store> Open(const std::string& path, absl::Span<const Migration> migrations) {
  Store::Options options;
  options.path = path;
  options.migrations = migrations;
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(options);
  if (store.ok()) return *std::move(store);
  ADD_FAILURE() << store.status();
  std::abort();
}

// A house, a tenant that has paid 1.00 three times, and its invoice of November, written in the tables of then: today's
// functions know others.
absl::Status WriteOldBooks(Database& db) {
  db.Script(
      "INSERT INTO party VALUES (1, randomblob(16), 1, 'house', 'House Ltd', 'EUR', 1, NULL, 0, 0, 'UTC', 1);"
      "INSERT INTO party VALUES (2, randomblob(16), 3, 'demo', 'Demo Ltd', 'EUR', 1, 1, 1, 0, 'UTC', 1);"
      "INSERT INTO account VALUES (1, 1, 'cash', 'EUR', 3000000, 0, 0, 0);"
      "INSERT INTO account VALUES (2, 2, 'customer', 'EUR', 0, 3000000, 0, 0);"
      "INSERT INTO billing_period VALUES (2, 202611, 1, 2, 'UTC', '', 1);");
  std::string hash;
  for (int64_t seq = 1; seq <= 3; ++seq) {
    const Transfer transfer{.debit_account = 1,
                            .credit_account = 2,
                            .amount_micro = 1'000'000,
                            .reference = "wire",
                            .booked_us = kNovemberUs};
    hash = TransferHash(hash, seq, transfer);
    db.Execute("INSERT INTO transfer VALUES (?, 1, 2, 1000000, 1, 0, 'wire', ?, ?)", seq, kNovemberUs, Blob{hash});
    db.Execute("INSERT INTO credit_lot VALUES (?, 2, 2, 0, 1000000, 1000000, ?, 9223372036854775807, ?)", seq,
               kNovemberUs, seq);
  }
  v1::Invoice invoice;
  invoice.set_number("G2026-000001");
  invoice.set_state("final");
  invoice.set_party_name("demo");
  invoice.set_period("2026-11");
  const std::string content = invoice.SerializeAsString();
  db.Execute("INSERT INTO invoice VALUES (2, 202611, 'G2026', 1, ?, ?, ?)", Blob{content}, Blob{Sha256(content)},
             kDecemberUs);
  return absl::OkStatus();
}

TEST(InvoiceMigration, OldInvoicesAndMoneyComeAlong) {
  char name[] = "/tmp/gantry-migration-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string path = std::string(name) + "/gantry.db";
  {
    const auto store = Open(path, Migrations().subspan(0, 4));
    const absl::Status written = store->WriteAndWait(WriteOldBooks);
    ASSERT_TRUE(written.ok()) << written;
  }
  {
    const auto store = Open(path, Migrations());
    const absl::Status status = store->WriteAndWait([](Database& db) -> absl::Status {
      EXPECT_TRUE(Audit(db).ok()) << Audit(db).DebugString();
      v1::FinalizeInvoiceRequest request;
      request.set_party_name("demo");
      request.set_period("2026-11");
      absl::StatusOr<v1::Invoice> old = FinalizeInvoice(db, request, kDecemberUs);
      if (!old.ok()) return old.status();
      EXPECT_EQ(old->number(), "G2026-000001");
      EXPECT_EQ(GetDocument(db, "G2026-000001")->state(), "final");
      EXPECT_EQ(old->open_minor(), 0) << "it was paid from the balance";
      v1::CreateCreditNoteRequest credit;
      credit.set_number("G2026-000001");
      credit.set_reason("r");
      credit.set_whole(true);
      EXPECT_TRUE(absl::IsFailedPrecondition(CreateCreditNote(db, credit, kDecemberUs).status()));
      v1::VoidInvoiceRequest gone;
      gone.set_number("G2026-000001");
      gone.set_reason("r");
      EXPECT_TRUE(absl::IsFailedPrecondition(VoidInvoice(db, gone, kDecemberUs).status()));
      request.set_period("2026-12");
      absl::StatusOr<v1::Invoice> next = FinalizeInvoice(db, request, kJanuaryUs);
      if (!next.ok()) return next.status();
      EXPECT_EQ(next->number(), "G2026-000002") << "the series goes on";
      v1::ListPaymentsRequest payments;
      payments.set_party_name("demo");
      EXPECT_EQ(ListPayments(db, payments)->payments_size(), 3);
      EXPECT_TRUE(Audit(db).ok()) << Audit(db).DebugString();
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
  }
  std::filesystem::remove_all(name);
}

}  // namespace
}  // namespace gantry::billing
