// Witness 2: what this worker generated, counted independently of the gateway (rule R10).
//
// While a sequence runs its counts stand in the witness board, a memory-mapped file: they are stored before a frame is
// handed to gRPC, so that after kill -9 the file holds an upper bound of what anybody can have received. When it ends,
// a record goes to the spool and from there to billing until billing has acknowledged it. Sequences that a crash left
// open become records with reason ERROR at the next start.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/ids.h"
#include "services/common/rpc.h"
#include "services/common/spool.h"
#include "services/common/spool_retention.h"

namespace gantry::worker {

// Counts of one running sequence. Written by the engine's thread, read after a crash.
struct BoardSlot {
  uint64_t in_use;
  uint8_t request_id[16];
  uint8_t hold_id[16];
  uint8_t tenant[16];
  uint32_t attempt;
  uint32_t sequence;
  uint64_t from_index;
  uint64_t to_index;
  uint64_t prompt_tokens;
  uint64_t cached_tokens;
};

class WitnessBoard {
 public:
  static constexpr int kSlots = 1024;
  // Creates or opens the file; `open_slots` gets what a crash left. The board keeps it until Clear.
  static absl::StatusOr<std::unique_ptr<WitnessBoard>> Open(const std::string& path,
                                                            std::vector<BoardSlot>* open_slots);
  ~WitnessBoard();

  // RESOURCE_EXHAUSTED when all slots are taken.
  absl::StatusOr<BoardSlot*> Take(const BoardSlot& initial);
  void Release(BoardSlot* slot);
  // Forgets what a crash left in slot `index`, once its record is durable. REQUIRES: the slot has not been taken since.
  void Clear(int index) { slots_[index] = BoardSlot{}; }
  // Before a frame with tokens up to `to_index` leaves.
  static void Advance(BoardSlot* slot, uint64_t to_index, uint64_t cached_tokens);

 private:
  explicit WitnessBoard(BoardSlot* slots) : slots_(slots) {}
  BoardSlot* slots_;
  std::mutex mutex_;
  std::vector<int> free_;
};

// Sends records to billing's Usage.AppendWitness, at least once. Thread-safe.
class WitnessSender {
 public:
  struct Options {
    std::string state_dir;  // spool and board live here
    std::string billing;    // address
    Identity identity;
    std::string worker_id;  // 16 bytes
    uint64_t epoch = 0;
    std::string model;
    Durability durability = Durability::kFsync;
  };
  // Replays the spool and turns what a crash left on the board into records.
  static absl::StatusOr<std::unique_ptr<WitnessSender>> Start(Options options);
  // Stops at once; what is not acknowledged stays in the spool.
  ~WitnessSender();

  WitnessBoard& board() { return *board_; }
  // Space for one sequence's record; refused when the spool is full or failing.
  absl::StatusOr<Spool::Reservation> Reserve();
  // The record of a sequence that ended; `reservation` from Reserve.
  void Add(v1::WitnessRecord record, Spool::Reservation reservation);
  // Records that billing has not acknowledged.
  size_t pending() const;
  SpoolStats spool_stats() const { return spool_->Stats(); }
  // Waits until everything is acknowledged or the time is over.
  bool Flush(absl::Duration patience);

 private:
  struct Waiting {
    v1::WitnessRecord record;
    absl::Time ended;
    uint64_t spool_sequence = 0;
  };
  explicit WitnessSender(Options options) : options_(std::move(options)) {}
  void Loop();
  bool SendAll(void* stream);

  const Options options_;
  std::unique_ptr<Spool> spool_;
  std::unique_ptr<SpoolRetention> retention_;
  std::unique_ptr<WitnessBoard> board_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Waiting> waiting_;  // durable, by record id: ids rise with time
  bool stopping_ = false;
  void* context_ = nullptr;  // grpc::ClientContext of the running stream, to cancel it
  std::thread thread_;
};

}  // namespace gantry::worker
