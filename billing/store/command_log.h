// What restores the books to their last acknowledgement when their disk is lost (rule R14): the row changes of every
// group commit, synced to a directory on another disk before the group commits. Why row changes and not commands:
// docs/decisions/0008-command-log-of-row-changes.md.
//
// On disk: segments DIR/EEEEEEEEEE-NNNNNNNNNNNNNNNNNNNN-AAAAAA.commands, named by epoch, first sequence and how many
// began there before. A record is
//   u32 body length | u32 CRC-32C of all that follows | i64 sequence | u32 epoch | u32 type | i64 time_us | body
// (little endian). The first of a segment is kSegment: books' id (16 bytes), u32 epoch and i64 sequence that an epoch's
// first segment continues (0, 0: it continues nothing, a backup must). Sequences rise by one within an epoch. A segment
// is never written again after a restart: the next one begins with the last record once more, because what was read
// from a file whose sync failed may be in the kernel's memory only.
//
// A record is synced before the next is written, so at most the last of a segment can be torn. Damage anywhere before
// is DATA_LOSS and names segment and offset.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/common/file.h"
#include "services/common/ids.h"

namespace gantry::billing {

// How far books have come: the epoch grows with every restore, the sequence with every group commit.
struct BooksPosition {
  uint32_t epoch = 0;
  int64_t sequence = 0;
  friend bool operator==(const BooksPosition&, const BooksPosition&) = default;
};

struct LogRecord {
  enum Type : uint32_t {
    kSegment = 1,
    kChanges = 2,  // body: ApplyChanges
    kSchema = 3,   // body: the version that the schema has from here on, in digits
  };
  BooksPosition position;
  Type type = kChanges;
  int64_t time_us = 0;  // billing's clock
  std::string body;
};

class CommandLogReader {
 public:
  // What the directory holds. FAILED_PRECONDITION: it is the log of other books.
  static absl::StatusOr<CommandLogReader> Open(FileSystem* file_system, const std::string& directory,
                                               const Id16& books_id);

  bool empty() const { return epochs_.empty(); }
  uint32_t newest_epoch() const { return epochs_.empty() ? 0 : epochs_.rbegin()->first; }

  // Hands over, in order, every record after `from` on the way to the end of the newest epoch; the last position in
  // *end. OUT_OF_RANGE: the way from there is not in the log (what is missing is named); then nothing was handed over.
  // An error of `apply` ends it.
  absl::Status Replay(const BooksPosition& from, const std::function<absl::Status(const LogRecord&)>& apply,
                      BooksPosition* end) const;
  // The last record of an epoch; of one that has begun and holds none yet, kSegment at the position before its first.
  // NOT_FOUND: no such epoch.
  absl::StatusOr<LogRecord> Last(uint32_t epoch) const;

 private:
  struct Segment {
    std::string path;
    int64_t first = 0;
  };
  struct Epoch {
    std::vector<Segment> segments;
    BooksPosition continues;
  };
  CommandLogReader(FileSystem* file_system, const Id16& books_id) : file_system_(file_system), books_id_(books_id) {}
  absl::Status ReadSegment(const Segment& segment, std::vector<LogRecord>* records) const;
  absl::Status ReadEpoch(uint32_t epoch, int64_t after, int64_t until,
                         const std::function<absl::Status(const LogRecord&)>& apply, int64_t* last) const;

  FileSystem* file_system_;
  Id16 books_id_;
  std::map<uint32_t, Epoch> epochs_;
};

class CommandLog {
 public:
  struct Options {
    FileSystem* file_system = nullptr;
    std::string directory;
    Id16 books_id;
    int64_t segment_bytes = 64 << 20;
  };
  // Goes on after `last`; `continues` for the first segment of an epoch. Makes the directory. REQUIRES: the log does
  // not go further. Errors name the path.
  static absl::StatusOr<std::unique_ptr<CommandLog>> Open(Options options, const BooksPosition& last,
                                                          const BooksPosition& continues = {});

  // Durable once OK. After any error the log is dead and refuses.
  absl::Status Append(const LogRecord& record);
  // Whether the record that failed may be there all the same.
  bool uncertain() const { return uncertain_; }
  // Removes the segments that hold nothing after `covered`; never the newest. Any thread.
  static absl::Status Prune(FileSystem* file_system, const std::string& directory, const BooksPosition& covered);

  int64_t bytes_written() const { return bytes_written_; }

 private:
  explicit CommandLog(Options options) : options_(std::move(options)) {}
  absl::Status Begin(const BooksPosition& first, const BooksPosition& continues);
  absl::Status Write(const std::string& bytes, bool begins);

  const Options options_;
  std::unique_ptr<File> file_;
  std::string path_;
  int64_t segment_bytes_ = 0, bytes_written_ = 0;
  absl::Status dead_;
  bool uncertain_ = false;
};

}  // namespace gantry::billing
