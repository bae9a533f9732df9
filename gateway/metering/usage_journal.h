// Witness 1: what was delivered, written down before the tenant is told that a reply has ended (R3), and kept until
// billing has it.
//
// Per request the spool holds: its opening (who, which hold, which prices), its progress (at most every 64 tokens or
// 250 ms), its final record. All three carry the record id, chosen at the opening: however often a record is sent, in
// whatever form a crash left it, billing counts it once. Open() closes requests that a crash left open at their last
// progress, outcome GATEWAY_LOST, and names the slices that the dead process had.
//
// Threads: every method from any thread; `done` callbacks come on the spool's thread and must not block.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/ids.h"
#include "services/common/spool.h"
#include "services/common/spool_retention.h"

namespace gantry::gateway {

class UsageJournal : public std::enable_shared_from_this<UsageJournal> {
 public:
  struct Slice {
    Id16 id;
    Id16 party;
    int64_t granted_micro = 0;
    uint32_t records = 0;  // of orphans: records that name it and wait for billing
  };

  // `file_system` outlives the journal. `orphans` gets the slices of earlier processes that were not closed. Errors:
  // those of Spool::Open and of writing the recovered records.
  static absl::StatusOr<std::shared_ptr<UsageJournal>> Open(FileSystem* file_system, const SpoolOptions& options,
                                                            std::vector<Slice>* orphans);
  ~UsageJournal();

  // One request. Dropping an entry that was not finished closes it as FAILED: nothing billed.
  class Entry {
   public:
    ~Entry();
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    const v1::UsageRecord& opening() const { return opening_; }

    // What has been delivered so far; written when it is 64 tokens or 250 ms past the last one written. Never waits.
    void Progress(uint64_t prompt_tokens, uint64_t cached_tokens, uint64_t output_tokens);
    // The final record; identity fields are taken from the opening. `done` gets OK once it is durable in the configured
    // sense. Then, and only then, the tenant may be told. After an error the record is not sent: witness 2 settles.
    void Finish(v1::UsageRecord record, std::function<void(absl::Status)> done);

   private:
    friend class UsageJournal;
    Entry() = default;
    std::shared_ptr<UsageJournal> journal_;
    v1::UsageRecord opening_;
    Spool::Reservation reservation_;                     // for the final record
    std::shared_ptr<std::atomic<uint64_t>> superseded_;  // sequence of the last progress on disk, 0: none
    uint64_t open_sequence_ = 0;
    uint64_t written_tokens_ = 0;
    std::chrono::steady_clock::time_point written_at_;
    bool finished_ = false;
  };

  // Sets space aside and writes the opening. `opening` has request, party, key, hold, slice (unless the hold is
  // reserved), model, plan version and held_micro. RESOURCE_EXHAUSTED or UNAVAILABLE: the spool cannot take it; refuse
  // the request (R4).
  absl::StatusOr<std::unique_ptr<Entry>> Begin(v1::UsageRecord opening);

  absl::Status SliceGranted(const Slice& slice);
  void SliceClosed(const Id16& slice);

  // ---- delivery to billing ----

  // The oldest records that are not on their way, `age_ms` filled in; they are on their way from now.
  std::vector<v1::UsageRecord> NextBatch(size_t max);
  // Billing has them, or will never take them. Both end a record's way; what billing has stays on the disk until a
  // backup covers it (services/common/spool_retention.h), and is sent again after a start.
  void Acked(const std::string& record_id, int64_t acked_us = 0, int64_t covered_us = 0);
  void Rejected(const std::string& record_id, const std::string& reason);
  // The stream broke: all records on their way will be sent again.
  void Requeue();
  // Called, from any thread, when NextBatch has something new. Set once.
  void OnReady(std::function<void()> ready);
  // Called with the slice of each record that billing took or will never take, or the hold of one that has no slice.
  // Set once.
  void OnAcked(std::function<void(const Id16& credit, bool taken)> acked);

  size_t pending() const;  // records that billing has not acked
  SpoolStats Stats() const { return spool_->Stats(); }

 private:
  struct Pending {
    v1::UsageRecord record;
    uint64_t sequence = 0;
    std::chrono::steady_clock::time_point ended;
    bool sent = false;
  };
  UsageJournal() = default;
  absl::Status Recover(std::vector<SpoolRecord> replayed, std::vector<Slice>* orphans);
  void AddPending(v1::UsageRecord record, uint64_t sequence, std::chrono::steady_clock::time_point ended);
  void Remove(const std::string& record_id, bool taken, int64_t acked_us, int64_t covered_us);

  // Spool::Append whose callback knows the record's sequence. REQUIRES: `space` has room.
  void Append(uint32_t type, const std::string& payload, Spool::Reservation* space,
              std::function<void(uint64_t sequence, absl::Status)> done);

  mutable absl::Mutex mu_;
  std::deque<Pending> pending_ ABSL_GUARDED_BY(mu_);  // in order of their end
  absl::flat_hash_map<Id16, uint64_t> slice_sequences_ ABSL_GUARDED_BY(mu_);
  std::function<void()> ready_ ABSL_GUARDED_BY(mu_);
  std::function<void(const Id16&, bool)> acked_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<SpoolRetention> retention_;
  std::unique_ptr<Spool> spool_;  // last: its thread calls back into the rest until it is gone
};

}  // namespace gantry::gateway
