// Receipts' own tables (migration 0003): public keys, signed roots, and where each buyer's chain stood at each root.
// Functions run inside a command or a query of the store; what they append is never changed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/receipt/key_ring.h"
#include "billing/receipt/receipt.h"
#include "billing/receipt/verify.h"
#include "billing/store/database.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct StoredReceiptKey {
  PublicReceiptKey key;
  int64_t first_event_seq = 0;  // signs receipts of events from this one on
};
// Oldest first.
std::vector<StoredReceiptKey> AllReceiptKeys(Database& db);

// A new key for the receipts of events from `first_event_seq` on, endorsed by the one before where its private half is
// at hand. Errors of ReceiptKeyRing::AddKey. A key that was made and not recorded signs nothing.
absl::StatusOr<StoredReceiptKey> AddReceiptKey(Database& db, ReceiptKeyRing* ring, int64_t first_event_seq,
                                               int64_t now_us);

struct StoredReceiptRoot {
  int64_t number = 0;
  int64_t first_event_seq = 0, last_event_seq = 0;  // both included
  int64_t receipts = 0;
  std::string body;       // ReceiptRootBody
  std::string signature;  // 64 bytes
};
std::optional<StoredReceiptRoot> LastReceiptRoot(Database& db);
// Whose leaves hold the receipts of that event; none: not closed yet.
std::optional<StoredReceiptRoot> ReceiptRootOfEvent(Database& db, int64_t event_seq);
std::vector<StoredReceiptRoot> ReceiptRootsAfter(Database& db, int64_t number, int64_t limit);
// `chains`: of every buyer with a receipt under the root.
void AppendReceiptRoot(Database& db, const StoredReceiptRoot& root, const std::map<Id16, ReceiptChain>& chains);

// A place in a buyer's chain: after the receipts of all its events up to `event_seq`.
struct ChainPoint {
  int64_t event_seq = 0;
  ReceiptChain chain;
};
// The latest that is kept of those before `event_seq`.
ChainPoint KeptChainBefore(Database& db, const Id16& buyer, int64_t event_seq);

}  // namespace gantry::billing
