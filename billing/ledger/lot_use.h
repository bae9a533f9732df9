// Which lots paid for usage and for what invoices post, and what of it comes back by a correction, a void invoice or a
// credit note.
//
// Bought credit can be refunded, given credit cannot. So what comes back goes to the kind that had paid: usage for
// which promotional lots gave something leaves rows that say which lot gave how much (Journal::UseLots); usage that was
// paid by bought credit alone leaves none, and costs nothing more than before.
//
// The rule, for what a correction gives back of a request:
//   1. What the request used last comes back first: what was on the credit limit, then its lots in the opposite order.
//      So the request ends as if it had cost what it should from the beginning.
//   2. A promotional lot gets its own back, with its own expiry: when that has passed it expires again (ExpireLots),
//      into breakage. Bought credit comes back as a new bought lot that does not expire.
//   3. Of the rest nobody knows what paid it: bought credit, or the credit limit. A debt on the limit may have been
//      paid by promotional credit that came later, so the rest goes first to promotional lots that have paid debts
//      since, as far as they have; then it is bought credit. This can give a customer promotional for bought credit
//      when both paid in the time between; never the other way.
//   4. When the account is in debt, what came back pays the debt at once: first what nobody knows to have been paid by
//      anything, then in the order of lots.
//
// What a volume tier takes back of a month's earlier requests is no correction of one of them: promotional lots get it
// first, as far as they have paid for the month, the last used first.
//
// What an invoice posts (minimum, rounding, tax) leaves rows for every lot and for the limit, whatever their kind: it
// is once a month. It comes back by the same rule: last what was bought, first what was on the limit (and may have been
// paid since, as 3. says), between them what was given. All rows of a promotional lot together are what it has lost but
// for expiry; the audit checks it.
#pragma once

#include <cstdint>
#include <vector>

#include "billing/ledger/ledger.h"
#include "billing/store/database.h"

namespace gantry::billing {

// What one lot gave for one posting.
struct LotShare {
  int64_t lot_no = 0;  // 0: none, it is on the credit limit
  int64_t micro = 0;
};
// What a lot gave for a posting of an invoice.
void RecordPostingUse(Database& db, int64_t transfer_seq, const LotShare& share);
// What paid for the usage event `event_seq` on an account.
void RecordLotUse(Database& db, int64_t event_seq, int64_t account_no, const LotShare& share);
// That a promotional lot paid `micro` of a debt: of any usage until now.
void RecordDebtPaid(Database& db, int64_t account_no, int64_t lot_no, int64_t micro);

// Usage that is taken back of an account, whose balance has got it already.
struct ReturnedUsage {
  std::vector<int64_t> event_seqs;  // of the request, from the one that was paid for on; ascending, not empty
  // Beyond what the request has been charged for: volume tiers count the month again. As by a tier.
  int64_t beyond_micro = 0;
  std::vector<LotShare> given;
  int64_t event_seq = 0;     // of the correction
  int64_t micro = 0;         // > 0
  int64_t transfer_seq = 0;  // that brought it
  int64_t balance_before_micro = 0;
  int64_t now_us = 0;
};
void ReturnToLots(Journal& journal, const Account& account, const ReturnedUsage& returned);

// What a volume tier takes back of a month's usage.
struct ReturnedTier {
  std::vector<LotShare> given;  // what promotional lots have paid for the month, the last used first
  int64_t month_event_seq = 0;  // its first usage: debts paid since may have been of it
  int64_t event_seq = 0;        // whose tier it is
  int64_t micro = 0;            // > 0
  int64_t transfer_seq = 0;
  int64_t balance_before_micro = 0;
  int64_t now_us = 0;
};
void ReturnToLots(Journal& journal, const Account& account, const ReturnedTier& returned);

// A posting of an invoice that is taken back from it, in whole or in part; the account's balance has got it already.
struct ReturnedPosting {
  int64_t posting_seq = 0;  // the transfer that had taken it
  int64_t micro = 0;        // > 0
  // What promotional lots have lost and no invoice has deducted. Of debts that they have paid more does not come back:
  // the customer has had it as a lower price.
  int64_t not_deducted_micro = 0;
  int64_t transfer_seq = 0;
  int64_t balance_before_micro = 0;
  int64_t now_us = 0;
};
void ReturnToLots(Journal& journal, const Account& account, const ReturnedPosting& returned);

// What a credit note takes back of an invoice's usage and minimum. What promotional credit had paid of them when it
// became final is not among it: it was deducted. Debts that credit given afterwards has paid may be.
struct ReturnedNet {
  int64_t micro = 0;               // > 0
  int64_t given_from_us = 0;       // lots granted before were deducted
  int64_t not_deducted_micro = 0;  // as above
  int64_t transfer_seq = 0;
  int64_t balance_before_micro = 0;
  int64_t now_us = 0;
};
void ReturnToLots(Journal& journal, const Account& account, const ReturnedNet& returned);

}  // namespace gantry::billing
