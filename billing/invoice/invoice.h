// Invoices: drafts at any time, final ones with the next number of their seller's series, and what becomes of those.
//
// Becoming final is one transaction: number, content, postings (commitment, rounding, tax), payment from what the
// customer has paid in already. After it the customer's account was debited exactly the invoice's gross amount, beside
// what the invoice says was paid by promotional credit or carried over (draft.h). What was issued never changes: credit
// notes (credit_note.h) take back, voiding takes it out of force; both leave it as it is.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "billing/invoice/draft.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

// The final invoice when there is one, else a draft. NOT_FOUND: no such party; INVALID_ARGUMENT: period.
absl::StatusOr<v1::Invoice> GetInvoice(Database& db, const v1::GetInvoiceRequest& request);

// Of a closed party also the month that runs, once nothing is held for it any more: its last one. FAILED_PRECONDITION:
// the period is not over, requests of it wait for a witness, billing's clock is behind its books,
// or the tax of the two profiles contradicts itself. Finalising twice gives the same invoice.
absl::StatusOr<v1::Invoice> FinalizeInvoice(Database& db, const v1::FinalizeInvoiceRequest& request, int64_t now_us);

// By number: a final invoice or a credit note, with how it stands. NOT_FOUND.
absl::StatusOr<v1::Invoice> GetDocument(Database& db, const std::string& number);

// Final invoices, oldest first. NOT_FOUND: no such party; INVALID_ARGUMENT: page.
absl::StatusOr<v1::ListInvoicesResponse> ListInvoices(Database& db, const v1::ListInvoicesRequest& request,
                                                      int64_t now_us);

// Reverses its postings and opens its period again; the number stays used. INVALID_ARGUMENT: no reason. NOT_FOUND.
// FAILED_PRECONDITION: void already, payments are allocated to it, it has credit notes, or a later invoice took what it
// carried over.
absl::StatusOr<v1::Invoice> VoidInvoice(Database& db, const v1::VoidInvoiceRequest& request, int64_t now_us);

// A row of `invoice`, for what refers to one.
struct FinalInvoice {
  int64_t invoice_no = 0;
  int64_t party_no = 0;
  int64_t period = 0;
  bool booked = false;
  bool voided = false;
  int64_t gross_minor = 0, credited_minor = 0, allocated_minor = 0;
  int64_t voided_us = 0;
  v1::Invoice content;  // as issued
};
// NOT_FOUND: no final invoice has the number. DATA_LOSS: it cannot be read.
absl::StatusOr<FinalInvoice> FindFinal(Database& db, const std::string& number);
// As issued, with how it stands now.
v1::Invoice WithStanding(const FinalInvoice& row);

// 1..500 bytes on one line. INVALID_ARGUMENT.
absl::Status CheckReason(const std::string& reason);
// FAILED_PRECONDITION while billing's clock is behind its last transfer.
absl::Status CheckClock(Database& db, int64_t now_us);

}  // namespace gantry::billing
