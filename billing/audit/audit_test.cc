#include "billing/audit/audit.h"

#include <gtest/gtest.h>

#include "billing/catalog/admin_log.h"
#include "billing/invoice/credit_note.h"
#include "billing/invoice/invoice.h"
#include "billing/invoice/profile.h"
#include "billing/testing/books.h"

namespace gantry::billing {
namespace {

// Books in which something of everything has happened.
void Live(Books& books) {
  books.Do([&](Database& db) {
    v1::SetBillingProfileRequest request;
    request.mutable_profile()->set_party_name("house");
    request.mutable_profile()->mutable_sells_with()->set_category(v1::TAX_CATEGORY_S);
    request.mutable_profile()->mutable_sells_with()->set_rate_ppm(190'000);
    return SetBillingProfile(db, request, books.now_us()).status();
  });
  const Id16 slice = books.Slice(5'000'000);
  for (int i = 0; i < 3; ++i) {
    v1::UsageRecord record = books.Record(slice, 123'400, 567'000);
    books.Append(record);
    books.Append(books.Witness(record, 567'000));
  }
  books.Do([&](Database& db) {
    v1::SetPartyStatusRequest request;
    return Once(db,
                {.method = "SetPartyStatus",
                 .idempotency_key = "k",
                 .object = "demo",
                 .now_us = books.now_us(),
                 .request = &request},
                &request, [] { return absl::OkStatus(); });
  });
  books.Advance(40ll * 86'400'000'000);
  books.Do([&](Database& db) {
    v1::FinalizeInvoiceRequest request;
    request.set_party_name("demo");
    request.set_period("2026-11");
    return FinalizeInvoice(db, request, books.now_us()).status();
  });
  books.Do([&](Database& db) {
    v1::CreateCreditNoteRequest request;
    request.set_number("G2026-000001");
    request.set_reason("slow days");
    request.set_net_minor(1);
    return CreateCreditNote(db, request, books.now_us()).status();
  });
}

TEST(Audit, HoldsForBooksThatNobodyTouched) {
  Books books;
  Live(books);
  v1::AuditReport report = books.Audited();
  EXPECT_TRUE(report.ok()) << report.DebugString();
  EXPECT_EQ(report.open_items(), 0u);
  EXPECT_EQ(report.checks_size(), 22);
}

TEST(Audit, HoldsForEmptyBooks) {
  Books books;
  EXPECT_TRUE(books.Audited().ok());
}

TEST(Audit, NoticesEveryKindOfTampering) {
  struct Case {
    const char* sql;
    const char* check;
  };
  for (const Case& c : std::vector<Case>{
           {"UPDATE account SET credit_micro = credit_micro + 1 WHERE type = 'customer'", "accounts = transfers"},
           {"UPDATE account SET credit_micro = credit_micro + 1 WHERE type = 'customer'", "debits = credits"},
           {"UPDATE account SET held_micro = held_micro - 1 WHERE type = 'customer'",
            "held = open slices + pending holds"},
           {"UPDATE account SET held_micro = 11000000 WHERE type = 'customer'", "no overdraft"},
           {"UPDATE account SET residue_pico = residue_pico + 1 WHERE type = 'customer'", "ledger + residue = usage"},
           {"DELETE FROM rating WHERE event_seq = 3", "ledger + residue = usage"},
           {"DELETE FROM usage_event WHERE seq = 2", "usage chain"},
           {"UPDATE usage_event SET output_tokens = output_tokens - 1 WHERE seq = 1", "usage x price = amount"},
           {"UPDATE usage_event SET output_tokens = output_tokens - 1 WHERE seq = 1", "usage chain"},
           {"UPDATE rating SET period = 202612 WHERE event_seq = 1", "usage chain"},
           {"UPDATE transfer SET booked_us = booked_us - 1 WHERE seq = 2", "transfer chain"},
           {"DELETE FROM transfer WHERE seq = 1", "transfer chain"},
           {"UPDATE plan_tier SET price_micro_per_m = 1 WHERE position = 0", "plan versions unchanged"},
           {"UPDATE audit_log SET object = 'somebody else'", "audit log chain"},
           {"UPDATE invoice SET content = x''", "invoices = usage, numbers without gaps"},
           {"UPDATE invoice SET number = 2", "invoices = usage, numbers without gaps"},
           {"DELETE FROM witness WHERE seq = 1", "witnesses agree"},
           {"INSERT INTO unmatched SELECT request_id, 'quarantined', '', 0 FROM usage_event LIMIT 1",
            "witnesses agree"},
           {"UPDATE credit_lot SET left_micro = left_micro - 1", "lots = balances"},
           {"UPDATE usage_rollup SET quantity = quantity + 1 WHERE position = 0", "roll-ups = events"},
           {"UPDATE usage_rollup SET amount_pico = amount_pico + 1 WHERE position = 2",
            "invoices = usage, numbers without gaps"},
           {"UPDATE invoice SET tax_minor = tax_minor + 1", "invoices = lines = postings"},
           {"UPDATE invoice SET seller_no = seller_no + 1", "invoices = lines = postings"},
           {"UPDATE invoice SET booked = 0", "invoices = lines = postings"},
           {"UPDATE invoice SET issued_us = issued_us + 1", "invoices = lines = postings"},
           {"UPDATE invoice SET name = 'G2026-000002'", "invoices = lines = postings"},
           {"UPDATE invoice_series SET seller_no = 2", "invoices = lines = postings"},
           {"UPDATE invoice SET rounding_micro = rounding_micro + 1", "invoices = lines = postings"},
           {"UPDATE invoice SET promotion_micro = promotion_micro + 1", "invoices = lines = postings"},
           {"UPDATE invoice SET usage_micro = usage_micro + 1, rounding_micro = rounding_micro - 1",
            "invoices = lines = postings"},
           {"UPDATE transfer SET amount_micro = amount_micro + 1 WHERE kind = 10", "invoices = lines = postings"},
           {"UPDATE transfer SET source = 7 WHERE kind = 9", "invoices = lines = postings"},
           {"DELETE FROM receivable", "invoices = lines = postings"},
           {"UPDATE receivable SET voided = 1, open = 0", "invoices = lines = postings"},
           {"DELETE FROM credit_note", "credit notes <= invoices"},
           {"UPDATE credit_note SET number = 2", "credit notes <= invoices"},
           {"UPDATE credit_note SET content = x''", "credit notes <= invoices"},
           {"UPDATE credit_note SET net_minor = net_minor + 1", "credit notes <= invoices"},
           {"UPDATE credit_note SET carried_micro = carried_micro + 1", "invoices = lines = postings"},
           {"UPDATE credit_note SET promotion_micro = promotion_micro + 1", "invoices = lines = postings"},
           {"UPDATE receivable SET credited_minor = credited_minor - 1", "credit notes <= invoices"},
           {"UPDATE receivable SET open = 1", "allocations <= payments and invoices"},
           {"UPDATE receivable SET allocated_minor = allocated_minor - 1", "allocations <= payments and invoices"},
           {"UPDATE allocation SET amount_minor = amount_minor + 1", "allocations <= payments and invoices"},
           {"UPDATE payment SET allocated_micro = allocated_micro + 1", "allocations <= payments and invoices"},
           {"UPDATE payment SET amount_micro = amount_micro + 1", "allocations <= payments and invoices"},
           {"UPDATE payment SET refunded_micro = 1", "allocations <= payments and invoices"},
           {"UPDATE payment SET party_no = 1", "allocations <= payments and invoices"},
       }) {
    Books books;
    Live(books);
    books.Tamper(c.sql);
    v1::AuditReport report = books.Audited();
    EXPECT_FALSE(report.ok()) << c.sql;
    bool noticed = false;
    for (const v1::AuditCheck& check : report.checks()) noticed |= check.name() == c.check && !check.ok();
    EXPECT_TRUE(noticed) << c.sql << " was not noticed by `" << c.check << "`\n" << report.DebugString();
  }
}

}  // namespace
}  // namespace gantry::billing
