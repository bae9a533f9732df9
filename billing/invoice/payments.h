// Money that came in, as an administrator records it and says what it is for.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"
#include "gantry/v1/invoicing.pb.h"

namespace gantry::billing {

// Credits the party's account (which may be used at once) and pays open invoices with it. INVALID_ARGUMENT names the
// field: amount, method, reference, received_on, a void invoice. NOT_FOUND: party, invoice of it.
absl::StatusOr<v1::Payment> RecordPayment(Database& db, const v1::RecordPaymentRequest& request, int64_t now_us);

// Top-ups are payments too. Oldest first. NOT_FOUND, INVALID_ARGUMENT: page.
absl::StatusOr<v1::ListPaymentsResponse> ListPayments(Database& db, const v1::ListPaymentsRequest& request);

// NOT_FOUND: party, payment or invoice of it. INVALID_ARGUMENT: an amount below zero, or one without its invoice.
// FAILED_PRECONDITION: less than the asked amount can be allocated; says what the payment has left, what the invoice
// has open and what requests that run leave free.
absl::StatusOr<v1::AllocatePaymentResponse> AllocatePayment(Database& db, const v1::AllocatePaymentRequest& request,
                                                            int64_t now_us);
// NOT_FOUND. FAILED_PRECONDITION: nothing is allocated to it.
absl::StatusOr<v1::AllocatePaymentResponse> ReleaseAllocations(Database& db,
                                                               const v1::ReleaseAllocationsRequest& request,
                                                               int64_t now_us);

// Takes money off the account again: it went back, or a payment that was recorded never came. INVALID_ARGUMENT: amount,
// reference. NOT_FOUND: party, payment. FAILED_PRECONDITION: more than the payments have left, than was not used, or
// than running requests leave free; says how much there is.
absl::StatusOr<v1::RefundPaymentResponse> RefundPayment(Database& db, const v1::RefundPaymentRequest& request,
                                                        int64_t now_us);

// What can be refunded now: what payments have left, was not used and is not held.
int64_t RefundableMicro(Database& db, const PartyRow& party);
// At the end of a party that owes nothing: pays what is still open with payments of which each has less than a smallest
// unit left, so that none can pay it alone. They come in once more as one, and are refunded.
absl::Status PayWithParts(Database& db, const PartyRow& party, int64_t now_us);
// Refunds all that can be, of whichever payments. How much.
int64_t RefundAll(Database& db, const PartyRow& party, const std::string& reference, int64_t now_us);

}  // namespace gantry::billing
