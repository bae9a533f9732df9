// Up to where audits have found the books well: signed, so that the next start need not read everything again.
//
// A checkpoint holds the ends of the three chains and a digest of what every account had come to by then; it is signed
// with the receipt key, whose private half lies outside the database. Whoever changes what was checked must change
// either a chained row, whose chain then does not lead to the checkpoint's end any more, or a sum, which then is not
// what the digest says.
//
// Between audits of everything, the tail proves what came since: the chains lead on from the checkpoint, and its sums
// plus the transfers since are the accounts. What was rated and rolled up is proven by the audit of everything.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/audit/audit.h"
#include "billing/receipt/key_ring.h"
#include "billing/store/database.h"

namespace gantry::billing {

struct ChainEnd {
  int64_t seq = 0;
  std::string hash;  // of the row `seq`; empty before the first
  bool operator==(const ChainEnd&) const = default;
};
struct AccountSums {
  int64_t debit_micro = 0, credit_micro = 0;
  bool operator==(const AccountSums&) const = default;
};
using SumsByAccount = std::map<int64_t, AccountSums>;

struct Checkpoint {
  int64_t made_us = 0;
  bool complete = false;  // everything was audited; false: what came since the checkpoint before
  ChainEnd usage, transfers, log;
  SumsByAccount sums;
};

// Where the books end now, as they say themselves; in the snapshot in which they were audited.
Checkpoint EndOfBooks(Database& db);

// The last checkpoint with its sums; nullopt: none. DATA_LOSS: its signature or its sums are not what was signed.
// FAILED_PRECONDITION: the key that signed it is not in `ring`.
absl::StatusOr<std::optional<Checkpoint>> LastCheckpoint(Database& db, const ReceiptKeyRing& ring);

// Audits what came after `from`; a checkpoint at the beginning of the books (Checkpoint{}) for all of it.
AuditResult AuditTail(Database& db, const Checkpoint& from);
// Rows that AuditTail would read.
int64_t TailRows(Database& db, const Checkpoint& from);

// The sums of the last checkpoint as they stand, whatever was signed.
SumsByAccount RecordedSums(Database& db);
// Signs and records it; writes what is different from `recorded`, so that the writer need not read it. Keeps the last
// thousand. FAILED_PRECONDITION: there is no receipt key.
absl::Status RecordCheckpoint(Database& db, const ReceiptKeyRing& ring, const Checkpoint& checkpoint,
                              const SumsByAccount& recorded);

}  // namespace gantry::billing
