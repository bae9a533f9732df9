#include "billing/receipt/receipt_store.h"

#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

#define ROOT_COLUMNS "number, first_event_seq, last_event_seq, receipts, body, signature"

StoredReceiptRoot ReadRoot(const Rows& rows) {
  return {.number = rows.Int(0),
          .first_event_seq = rows.Int(1),
          .last_event_seq = rows.Int(2),
          .receipts = rows.Int(3),
          .body = rows.Text(4),
          .signature = rows.Text(5)};
}

std::optional<StoredReceiptRoot> ReadOneRoot(Rows rows) {
  if (!rows.Next()) return std::nullopt;
  return ReadRoot(rows);
}

}  // namespace

std::vector<StoredReceiptKey> AllReceiptKeys(Database& db) {
  std::vector<StoredReceiptKey> keys;
  Rows rows = db.Query(
      "SELECT key_id, public_key, created_us, endorsed_by, endorsement, first_event_seq FROM receipt_key "
      "ORDER BY number");
  while (rows.Next()) {
    keys.push_back({{.key_id = rows.Text(0),
                     .public_key = rows.Text(1),
                     .created_us = rows.Int(2),
                     .endorsed_by = rows.Text(3),
                     .endorsement = rows.Text(4)},
                    rows.Int(5)});
  }
  return keys;
}

absl::StatusOr<StoredReceiptKey> AddReceiptKey(Database& db, ReceiptKeyRing* ring, int64_t first_event_seq,
                                               int64_t now_us) {
  const std::vector<StoredReceiptKey> before = AllReceiptKeys(db);
  StoredReceiptKey made;
  made.first_event_seq = first_event_seq;
  PublicReceiptKey& key = made.key;
  GANTRY_ASSIGN_OR_RETURN(key.public_key, ring->AddKey());
  key.key_id = ReceiptKeyId(key.public_key);
  key.created_us = now_us;
  const bool endorsable = !before.empty() && ring->Has(before.back().key.key_id);
  key.endorsed_by = endorsable ? before.back().key.key_id : key.key_id;
  GANTRY_ASSIGN_OR_RETURN(key.endorsement,
                          ring->Sign(key.endorsed_by, ReceiptKeyBody(key.public_key, now_us, key.endorsed_by)));
  db.Execute(
      "INSERT INTO receipt_key (number, key_id, public_key, first_event_seq, created_us, endorsed_by, endorsement) "
      "VALUES (?, ?, ?, ?, ?, ?, ?)",
      static_cast<int64_t>(before.size()) + 1, key.key_id, Blob{key.public_key}, first_event_seq, now_us,
      key.endorsed_by, Blob{key.endorsement});
  return made;
}

std::optional<StoredReceiptRoot> LastReceiptRoot(Database& db) {
  return ReadOneRoot(db.Query("SELECT " ROOT_COLUMNS " FROM receipt_root ORDER BY number DESC LIMIT 1"));
}

std::optional<StoredReceiptRoot> ReceiptRootOfEvent(Database& db, int64_t event_seq) {
  // Roots follow each other without gaps and are few: about one a day.
  return ReadOneRoot(
      db.Query("SELECT " ROOT_COLUMNS
               " FROM receipt_root WHERE first_event_seq <= ? AND last_event_seq >= ? ORDER BY number LIMIT 1",
               event_seq, event_seq));
}

std::vector<StoredReceiptRoot> ReceiptRootsAfter(Database& db, int64_t number, int64_t limit) {
  std::vector<StoredReceiptRoot> roots;
  Rows rows =
      db.Query("SELECT " ROOT_COLUMNS " FROM receipt_root WHERE number > ? ORDER BY number LIMIT ?", number, limit);
  while (rows.Next()) roots.push_back(ReadRoot(rows));
  return roots;
}

void AppendReceiptRoot(Database& db, const StoredReceiptRoot& root, const std::map<Id16, ReceiptChain>& chains) {
  db.Execute("INSERT INTO receipt_root (" ROOT_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?)", root.number, root.first_event_seq,
             root.last_event_seq, root.receipts, root.body, Blob{root.signature});
  for (const auto& [buyer, chain] : chains) {
    db.Execute("INSERT INTO receipt_chain (buyer_id, root_number, number, hash) VALUES (?, ?, ?, ?)", buyer,
               root.number, chain.number, Blob{chain.hash});
  }
}

ChainPoint KeptChainBefore(Database& db, const Id16& buyer, int64_t event_seq) {
  Rows rows = db.Query(
      "SELECT r.last_event_seq, c.number, c.hash FROM receipt_chain c JOIN receipt_root r ON r.number = c.root_number "
      "WHERE c.buyer_id = ? AND r.last_event_seq < ? ORDER BY c.root_number DESC LIMIT 1",
      buyer, event_seq);
  if (!rows.Next()) return {};
  return {rows.Int(0), {rows.Int(1), rows.Text(2)}};
}

}  // namespace gantry::billing
