// What final invoices have open and which payments pay them. All functions run inside a command, with no journal open.
//
// Every credit to a customer's account that was paid (top-ups as well) is a payment. Allocating one to an invoice moves
// no money: the customer's account was credited when the payment came and debited when the invoice became final. It
// says which invoice is settled. Bounds, held by the tables as well: what is allocated of a payment <= the payment, of
// an invoice <= what it has open.
//
// Not everything that was paid can be allocated: some of it may have expired, and some may be held by requests that run
// or be spent on usage that is not on an invoice yet. So what is allocated never takes `available + open` below zero.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"
#include "gantry/v1/invoicing.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct OpenInvoice {
  int64_t invoice_no = 0;
  std::string name;
  int64_t open_minor = 0;
};
// Oldest first.
std::vector<OpenInvoice> OpenInvoicesOf(Database& db, const PartyRow& party);

// A part of a payment.
struct Share {
  int64_t transfer_seq = 0;
  int64_t amount_minor = 0;
};
struct ShareLimits {
  int64_t wanted_minor = 0;
  int64_t payment = 0;         // of this one alone; 0: of all that are not held back, oldest first
  bool held_back = false;      // those that are held back too
  int64_t new_open_minor = 0;  // of an invoice that becomes final with it and is not among the open ones yet
};
// Which parts of payments can pay as much of `wanted_minor` as possible.
std::vector<Share> PlanShares(Database& db, const PartyRow& party, const ShareLimits& limits);
void Allocate(Database& db, const PartyRow& party, int64_t invoice_no, const std::vector<Share>& shares,
              int64_t now_us);
// Pays open invoices, oldest first, with what payments have left, those that are held back too if `held_back`. How
// much.
int64_t AllocateOldestFirst(Database& db, const PartyRow& party, int64_t now_us, bool held_back = false);
// Who has an open invoice that AllocateOldestFirst could pay now, although no payment came: requests that ran held the
// money when it became final, and gave it back since. At most `limit`; parked parties wait. Invoices that somebody has
// released a payment from are left to him, or to the next payment: he may be about to make them void. Cheap: only open
// invoices are looked up, and payments only of who has one.
std::vector<int64_t> BuyersWhoCanPay(Database& db, int limit);
// Pays what these have open, oldest first. Asking twice pays once. How much, in parties' smallest units.
absl::StatusOr<int64_t> PayFromFreedMoney(Database& db, const std::vector<int64_t>& party_nos, int64_t now_us);
// Takes back at most `amount_minor` of what an invoice was allocated, the newest first. `payment` 0: of any. How much.
int64_t Release(Database& db, int64_t invoice_no, int64_t amount_minor, int64_t payment, int64_t now_us);

// A new final invoice, and changes of it.
void OpenReceivable(Database& db, const PartyRow& party, int64_t invoice_no, int64_t period, int64_t gross_minor,
                    int64_t due_day);
void AddCredited(Database& db, int64_t invoice_no, int64_t gross_minor);
void CloseVoid(Database& db, int64_t invoice_no);

// A payment, top-ups included, of which something is neither allocated nor refunded.
struct PaymentLeft {
  int64_t transfer_seq = 0;
  int64_t left_micro = 0;
  bool held_back = false;
};
// Oldest first.
std::vector<PaymentLeft> PaymentsLeft(Database& db, const PartyRow& party);
// Of all of them together, without what has expired.
int64_t UnallocatedMicro(Database& db, const PartyRow& party);
// Gives a transfer that is a payment its row, unless it has one.
void KnowPayment(Database& db, const PartyRow& party, int64_t transfer_seq);

// An open invoice, as alerts ask for it.
struct InvoiceFact {
  Id16 buyer_id, seller_id;
  std::string buyer_name, seller_name;
  std::string number;
  std::string currency;
  uint32_t minor_digits = 0;
  int64_t gross_minor = 0;
  int64_t open_minor = 0;
  int64_t issued_us = 0;
  int64_t due_day = 0;       // days since 1970-01-01 (billing/invoice/dates.h)
  int64_t days_overdue = 0;  // in the seller's time zone; 0: not overdue
};
// All that are open, oldest first. Cheap: only open ones are read.
std::vector<InvoiceFact> InvoiceFacts(Database& db, int64_t now_us);

}  // namespace gantry::billing
