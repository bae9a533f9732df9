// Books of before invoices were booked (schema version 4): what they hold comes along.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>

#include "billing/audit/audit.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/plans.h"
#include "billing/invoice/credit_note.h"
#include "billing/invoice/invoice.h"
#include "billing/invoice/payments.h"
#include "billing/ledger/lots.h"
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

// A house, a tenant with 10.00, and its invoice of November as it was written then.
absl::Status WriteOldBooks(Database& db) {
  v1::CreatePartyRequest house;
  house.set_kind(v1::PARTY_KIND_HOUSE);
  house.set_name("house");
  house.set_currency("EUR");
  if (absl::Status status = CreateParty(db, house, kNovemberUs).status(); !status.ok()) return status;
  v1::PublishPlanVersionRequest plan;
  plan.set_plan("standard");
  plan.set_currency("EUR");
  for (int c = v1::TOKEN_CLASS_INPUT; c <= v1::TOKEN_CLASS_REQUEST; ++c) {
    v1::PriceLine* line = plan.add_lines();
    line->set_model_glob("*");
    line->set_token_class(static_cast<v1::TokenClass>(c));
  }
  if (absl::Status status = PublishPlanVersion(db, plan, kNovemberUs).status(); !status.ok()) return status;
  v1::CreatePartyRequest tenant;
  tenant.set_kind(v1::PARTY_KIND_TENANT);
  tenant.set_name("demo");
  if (absl::Status status = CreateParty(db, tenant, kNovemberUs).status(); !status.ok()) return status;
  absl::StatusOr<PartyRow> demo = PartyByName(db, "demo");
  if (!demo.ok()) return demo.status();
  for (int i = 0; i < 3; ++i) {
    if (absl::Status status = PostCredit(db, *demo, {.amount_micro = 1'000'000}, kNovemberUs); !status.ok()) {
      return status;
    }
  }
  v1::Invoice invoice;
  invoice.set_number("G2026-000001");
  invoice.set_state("final");
  invoice.set_party_name("demo");
  invoice.set_period("2026-11");
  const std::string content = invoice.SerializeAsString();
  db.Execute(
      "INSERT INTO invoice (party_no, period, series, number, content, hash, issued_us) VALUES (?, 202611, 'G2026', 1, "
      "?, ?, ?)",
      demo->party_no, Blob{content}, Blob{Sha256(content)}, kDecemberUs);
  db.Execute("INSERT INTO billing_period VALUES (?, 202611, 1, 2, 'UTC', '', 1)", demo->party_no);
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
      EXPECT_EQ(old->number(), "G2026-000001") << old.status();
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
      EXPECT_EQ(FinalizeInvoice(db, request, kJanuaryUs)->number(), "G2026-000002") << "the series goes on";
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
