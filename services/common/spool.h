// A durable log of records that wait to be delivered elsewhere (rules R3 and R4).
//
// Space is reserved before work that will end in a record begins, so that a record never finds the spool full. Appends
// of all threads are written by one thread, which shares one write and one fsync between those that wait (group
// commit).
//
// On disk: segments DIR/NNNNNNNNNNNNNNNNNNNN.spool, named by their first sequence number. A record is
//   u32 payload length | u32 CRC-32C of all that follows | u64 sequence | u64 last durable | u64 previous | u32 type |
//   payload
// (little endian). `last durable` is the last sequence that had been reported durable when the record was written, and
// `previous` the first of the segment before; 0: none since the start. Sequences rise by one without gaps. After a
// failed write or fsync a segment is dead: it is never written again, those who wait get the error, and the next append
// begins a new segment. While the last attempt failed, Reserve refuses. What a crash or a failed sync left of records
// that nobody was told to be durable is cut at start; damage to a record that a later one of the segment, or the first
// of the next, knows as durable is DATA_LOSS.
//
// Threads: every method from any thread. Callbacks run on the spool's thread and must not block.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/common/file.h"

namespace gantry {

enum class Durability {
  kFsync,  // survives power loss
  kWrite,  // survives kill -9
};

struct SpoolOptions {
  std::string directory;
  Durability durability = Durability::kFsync;
  int64_t segment_bytes = 8 << 20;
  int64_t total_bytes = int64_t{1} << 30;  // records and reservations together
  size_t record_bytes_max = 1 << 20;
};

struct SpoolRecord {
  uint64_t sequence = 0;
  uint32_t type = 0;
  std::string payload;
};

struct SpoolStats {
  int64_t bytes = 0;  // on disk
  int64_t reserved_bytes = 0;
  int segments = 0;
  uint64_t commits = 0;  // writes (and fsyncs) so far
  uint64_t records = 0;  // appended since start
  double last_sync_ms = 0;
  bool failing = false;
};

class Spool {
 public:
  // Bytes set aside; given back when it goes. Movable.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept;
    ~Reservation() { Release(); }
    int64_t bytes() const { return bytes_; }
    void Release();

   private:
    friend class Spool;
    Reservation(Spool* spool, int64_t bytes) : spool_(spool), bytes_(bytes) {}
    Spool* spool_ = nullptr;
    int64_t bytes_ = 0;
  };

  // Opens or creates the directory. `replayed` gets every record found, oldest first; what it needs later it appends
  // anew and then calls DropReplayed. DATA_LOSS names segment and offset.
  static absl::StatusOr<std::unique_ptr<Spool>> Open(FileSystem* file_system, const SpoolOptions& options,
                                                     std::vector<SpoolRecord>* replayed);
  // Writes what is queued, then stops.
  ~Spool();

  // RESOURCE_EXHAUSTED when full, UNAVAILABLE while failing.
  absl::StatusOr<Reservation> Reserve(int64_t bytes);
  // What a record of this payload takes.
  static int64_t BytesOf(size_t payload_bytes);

  // Queues a record and returns its sequence. `done` is called once it is durable in the chosen sense, or with the
  // error. `reservation` shrinks by the record's bytes; REQUIRES: it has as many left, and payload <= record_bytes_max.
  uint64_t Append(uint32_t type, absl::string_view payload, Reservation* reservation,
                  std::function<void(absl::Status)> done);

  // The record is not needed any more. A segment whose records all are gone is removed.
  void Ack(uint64_t sequence);
  // Removes the segments that were there at Open.
  void DropReplayed();

  SpoolStats Stats() const;

 private:
  struct Segment {
    std::string path;
    int64_t bytes = 0;
    uint64_t unacked = 0;
    bool sealed = false;
  };
  struct Pending {
    uint64_t sequence;
    uint32_t type;
    std::string payload;
    std::function<void(absl::Status)> done;
  };

  Spool(FileSystem* file_system, const SpoolOptions& options) : file_system_(file_system), options_(options) {}
  absl::Status Replay(std::vector<SpoolRecord>* replayed);
  // `next`: the segment after it, empty when it is the last.
  absl::Status ReadSegment(const std::string& path, const std::string& next, std::vector<SpoolRecord>* replayed,
                           int64_t* bytes);
  void Loop();
  absl::Status Commit(const std::vector<Pending>& batch);
  absl::Status OpenSegment(uint64_t first_sequence);
  void RemoveUnneeded();

  FileSystem* const file_system_;
  const SpoolOptions options_;

  // The writing thread's alone.
  std::unique_ptr<File> file_;
  std::string current_path_;
  int64_t current_bytes_ = 0;
  uint64_t current_first_ = 0, previous_first_ = 0;  // sequences
  uint64_t last_durable_ = 0;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::deque<Pending> queue_;
  std::map<uint64_t, Segment> segments_;  // by first sequence
  std::vector<std::string> removable_;    // paths whose records are all acked
  std::vector<Segment> replayed_;
  uint64_t next_sequence_ = 1;
  int64_t bytes_ = 0, queued_bytes_ = 0, reserved_ = 0;
  uint64_t commits_ = 0, records_ = 0;
  double last_sync_ms_ = 0;
  bool failing_ = false;
  absl::Time failed_at_ = absl::InfinitePast();
  bool probe_ = false;
  bool stopping_ = false;

  std::thread thread_;
};

}  // namespace gantry
