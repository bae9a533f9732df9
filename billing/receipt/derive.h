// Makes receipts out of the books, the same bytes whenever it is asked: the chain of a buyer from the last root on, the
// key of the event's time, nonces out of the key ring. And closes roots: one per day (UTC, by when billing wrote the
// usage down), more on a day with more than `leaves_max` receipts.
//
// One receipt costs the chain of its buyer since the last root or since the last one asked for; a proof costs all
// receipts of its root once. About 10 us a receipt.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/receipt/key_ring.h"
#include "billing/receipt/merkle.h"
#include "billing/receipt/receipt_source.h"
#include "billing/receipt/receipt_store.h"
#include "billing/store/clock.h"
#include "billing/store/store.h"

namespace gantry::billing {

// One thread; not one of the store's, which it waits for.
class ReceiptDeriver {
 public:
  struct Options {
    Store* store = nullptr;
    ReceiptKeyRing* ring = nullptr;
    Clock clock;
    ReceiptSource source;
    // How long after a day's end its root is closed.
    int64_t root_grace_us = 3'600'000'000;
    size_t leaves_max = kMerkleLeavesMax;
  };
  explicit ReceiptDeriver(Options options) : options_(std::move(options)) {}

  // Asked between pages; true: nobody waits any more.
  using GiveUp = std::function<bool()>;

  // The receipt of a request for one buyer (zero: its tenant), and those of its corrections. NOT_FOUND: no such request
  // of that buyer. FAILED_PRECONDITION: the private key is missing; with a proof: the day's root is not closed yet.
  // DATA_LOSS: the books do not lead to what was signed before. DEADLINE_EXCEEDED: given up.
  absl::StatusOr<std::vector<std::string>> Documents(const Id16& request_id, const Id16& buyer, bool with_proof,
                                                     const GiveUp& give_up);

  // Closes every root that is due; how many. Nothing while there is no key.
  absl::StatusOr<int> CloseRoots(const GiveUp& give_up);

  // Forgets what it remembers to be quicker.
  void DropCaches();

 private:
  struct Batch;  // the receipts of one root

  absl::Status LoadKeys();
  absl::StatusOr<std::string> KeyOf(int64_t event_seq) const;
  absl::StatusOr<std::string> Body(const ReceiptFacts& facts, ChainPoint from, const GiveUp& give_up);
  // Makes the receipts of the events after that one until `ends_before` stops at an event, or the books end.
  absl::StatusOr<Batch> Collect(int64_t after_event_seq,
                                const std::function<bool(const ReceiptFacts&, const Batch&)>& ends_before,
                                const GiveUp& give_up);
  absl::StatusOr<ReceiptProof> Proof(const StoredReceiptRoot& root, const std::string& receipt_hash,
                                     const GiveUp& give_up);
  absl::StatusOr<bool> CloseNextRoot(const GiveUp& give_up);
  // Padded and in order.
  absl::StatusOr<std::vector<std::string>> Leaves(int64_t root_number, const std::vector<std::string>& hashes) const;

  const Options options_;
  std::vector<StoredReceiptKey> keys_;
  absl::flat_hash_map<Id16, std::vector<ChainPoint>> points_;  // ascending
  size_t point_count_ = 0;
  int64_t cached_root_ = 0;  // whose leaves are cached; 0: none
  std::vector<std::string> cached_leaves_;
};

}  // namespace gantry::billing
