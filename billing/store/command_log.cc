#include "billing/store/command_log.h"

#include <algorithm>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"
#include "services/common/crc32c.h"
#include "services/common/little_endian.h"

namespace gantry::billing {
namespace {

constexpr char kSuffix[] = ".commands";
constexpr size_t kCheckedBytes = 8 + 4 + 4 + 8;  // of the header, what the checksum covers
constexpr size_t kHeaderBytes = 8 + kCheckedBytes;
constexpr size_t kBodyMax = size_t{1} << 30;
constexpr int kStartsMax = 999'999;
constexpr size_t kSegmentBodyBytes = 16 + 4 + 8;

std::string Encode(const LogRecord& record) {
  std::string checked;
  checked.reserve(kCheckedBytes + record.body.size());
  PutInteger(record.position.sequence, &checked);
  PutInteger(record.position.epoch, &checked);
  PutInteger(static_cast<uint32_t>(record.type), &checked);
  PutInteger(record.time_us, &checked);
  checked += record.body;
  std::string bytes;
  bytes.reserve(kHeaderBytes + record.body.size());
  PutInteger(static_cast<uint32_t>(record.body.size()), &bytes);
  PutInteger(Crc32c(checked), &bytes);
  return bytes + checked;
}

// The record at `at`, or false when there is no whole one.
bool Decode(absl::string_view data, size_t at, LogRecord* record) {
  if (data.size() - at < kHeaderBytes) return false;
  const auto length = GetInteger<uint32_t>(&data[at]);
  if (length > kBodyMax || data.size() - at < kHeaderBytes + length) return false;
  if (Crc32c(data.substr(at + 8, kCheckedBytes + length)) != GetInteger<uint32_t>(&data[at + 4])) return false;
  record->position.sequence = GetInteger<int64_t>(&data[at + 8]);
  record->position.epoch = GetInteger<uint32_t>(&data[at + 16]);
  record->type = static_cast<LogRecord::Type>(GetInteger<uint32_t>(&data[at + 20]));
  record->time_us = GetInteger<int64_t>(&data[at + 24]);
  record->body = std::string(data.substr(at + kHeaderBytes, length));
  return true;
}

// Whether a whole record of this epoch begins anywhere after `at`: then what is at `at` is no torn tail.
bool RecordFollows(absl::string_view data, size_t at, uint32_t epoch) {
  LogRecord record;
  for (size_t next = at + 1; next + kHeaderBytes <= data.size(); ++next) {
    if (GetInteger<uint32_t>(&data[next + 16]) != epoch || GetInteger<uint32_t>(&data[next + 20]) > LogRecord::kSchema)
      continue;
    if (Decode(data, next, &record)) return true;
  }
  return false;
}

std::string NameOf(const BooksPosition& first, int again) {
  return absl::StrFormat("%010d-%020d-%06d%s", first.epoch, first.sequence, again, kSuffix);
}

bool ParseName(absl::string_view name, BooksPosition* first) {
  if (!absl::ConsumeSuffix(&name, kSuffix)) return false;
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '-');
  return parts.size() == 3 && absl::SimpleAtoi(parts[0], &first->epoch) && absl::SimpleAtoi(parts[1], &first->sequence);
}

}  // namespace

// ---- reading ----

absl::StatusOr<CommandLogReader> CommandLogReader::Open(FileSystem* file_system, const std::string& directory,
                                                        const Id16& books_id) {
  CommandLogReader reader(file_system, books_id);
  GANTRY_ASSIGN_OR_RETURN(const std::vector<std::string> names, file_system->List(directory));
  for (const std::string& name : names) {
    BooksPosition first;
    if (!ParseName(name, &first)) continue;
    const std::string path = directory + "/" + name;
    // A crash may leave a segment without a whole first record: nothing was acknowledged from it.
    GANTRY_ASSIGN_OR_RETURN(const std::string data, file_system->Read(path));
    LogRecord head;
    if (!Decode(data, 0, &head)) {
      if (RecordFollows(data, 0, first.epoch)) {
        return absl::DataLossError(absl::StrCat(path, ": the first record is damaged"));
      }
      continue;
    }
    if (head.type != LogRecord::kSegment || head.body.size() != kSegmentBodyBytes || head.position != first) {
      return absl::DataLossError(absl::StrCat(path, ": does not begin as a segment of its name does"));
    }
    if (head.body.substr(0, 16) != books_id.ToBytes()) {
      return absl::FailedPreconditionError(absl::StrCat(path, " is of other books; expected the command log of books ",
                                                        books_id.ToHex(), ": give the directory that they used"));
    }
    Epoch& epoch = reader.epochs_[first.epoch];
    if (epoch.segments.empty()) {
      epoch.continues = {GetInteger<uint32_t>(&head.body[16]), GetInteger<int64_t>(&head.body[20])};
    }
    epoch.segments.push_back({path, first.sequence});
  }
  return reader;
}

absl::Status CommandLogReader::ReadSegment(const Segment& segment, std::vector<LogRecord>* records) const {
  GANTRY_ASSIGN_OR_RETURN(const std::string data, file_system_->Read(segment.path));
  uint32_t epoch = 0;
  for (size_t at = 0; at < data.size();) {
    LogRecord record;
    if (!Decode(data, at, &record)) {
      if (!RecordFollows(data, at, epoch)) break;
      return absl::DataLossError(absl::StrCat(segment.path, ": a damaged record at offset ", at));
    }
    epoch = record.position.epoch;
    at += kHeaderBytes + record.body.size();
    if (record.type != LogRecord::kSegment) records->push_back(std::move(record));
  }
  return absl::OkStatus();
}

absl::Status CommandLogReader::ReadEpoch(uint32_t epoch, int64_t after, int64_t until,
                                         const std::function<absl::Status(const LogRecord&)>& apply,
                                         int64_t* last) const {
  const std::vector<Segment>& segments = epochs_.at(epoch).segments;
  int64_t seen = -1;
  std::string seen_body;
  for (size_t i = 0; i < segments.size(); ++i) {
    // The next begins at most one further than this one ends.
    if (i + 1 < segments.size() && segments[i + 1].first <= after) continue;
    std::vector<LogRecord> records;
    GANTRY_RETURN_IF_ERROR(ReadSegment(segments[i], &records));
    for (LogRecord& record : records) {
      const int64_t sequence = record.position.sequence;
      if (seen >= 0 && sequence == seen && record.body != seen_body) {
        return absl::DataLossError(absl::StrCat(segments[i].path, ": record ", sequence, " is not what it was before"));
      }
      if (sequence < seen) {
        return absl::DataLossError(
            absl::StrCat(segments[i].path, ": record ", sequence, " after ", seen, " of epoch ", epoch));
      }
      const bool is_new = sequence != seen;
      seen = sequence;
      seen_body = record.body;
      if (!is_new || sequence <= after || sequence > until) continue;
      if (sequence != *last + 1) {
        return absl::OutOfRangeError(absl::StrCat("records ", *last + 1, " to ", sequence - 1, " of epoch ", epoch,
                                                  " are not in the command log: take a backup made after them"));
      }
      if (apply) GANTRY_RETURN_IF_ERROR(apply(record));
      *last = sequence;
    }
  }
  return absl::OkStatus();
}

absl::Status CommandLogReader::Replay(const BooksPosition& from,
                                      const std::function<absl::Status(const LogRecord&)>& apply,
                                      BooksPosition* end) const {
  *end = from;
  if (epochs_.empty()) return absl::OkStatus();
  // The way back from the newest epoch: how far each one on it counts.
  std::vector<std::pair<uint32_t, int64_t>> way;
  uint32_t epoch = newest_epoch();
  int64_t until = std::numeric_limits<int64_t>::max();
  while (epoch > from.epoch) {
    const auto found = epochs_.find(epoch);
    if (found == epochs_.end() || found->second.continues.epoch == 0 || found->second.continues.epoch >= epoch) {
      return absl::OutOfRangeError(absl::StrCat("epoch ", epoch, " of the command log does not continue epoch ",
                                                from.epoch,
                                                ": a restore without the log lies between; take a backup "
                                                "made after it"));
    }
    way.emplace_back(epoch, until);
    until = found->second.continues.sequence;
    epoch = found->second.continues.epoch;
  }
  if (epoch < from.epoch || until < from.sequence) {
    return absl::OutOfRangeError(absl::StrCat("the books at ", from.sequence, " of epoch ", from.epoch,
                                              " are not on the way that the command log went"));
  }
  if (epochs_.contains(epoch)) {
    way.emplace_back(epoch, until);
  } else if (until != from.sequence && !way.empty()) {
    return absl::OutOfRangeError(absl::StrCat("epoch ", epoch, " is not in the command log"));
  }
  std::reverse(way.begin(), way.end());
  // Twice: first whether all is there, so that a gap is told before anything is changed.
  for (const bool checking : {true, false}) {
    int64_t last = from.sequence;
    for (const auto& [at, to] : way) {
      const bool is_last = at == way.back().first;
      GANTRY_RETURN_IF_ERROR(ReadEpoch(at, last, to, checking ? nullptr : apply, &last));
      if (!is_last && last != to) {
        return absl::OutOfRangeError(
            absl::StrCat("epoch ", at, " of the command log ends at ", last, ", expected ", to));
      }
      if (!checking) *end = {at, last};
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<LogRecord> CommandLogReader::Last(uint32_t epoch) const {
  const auto found = epochs_.find(epoch);
  if (found == epochs_.end()) return absl::NotFoundError(absl::StrCat("epoch ", epoch, " is not in the command log"));
  for (auto segment = found->second.segments.rbegin(); segment != found->second.segments.rend(); ++segment) {
    std::vector<LogRecord> records;
    GANTRY_RETURN_IF_ERROR(ReadSegment(*segment, &records));
    if (!records.empty()) return std::move(records.back());
  }
  LogRecord none;
  none.position = {epoch, found->second.segments.front().first - 1};
  none.type = LogRecord::kSegment;
  return none;
}

// ---- writing ----

absl::StatusOr<std::unique_ptr<CommandLog>> CommandLog::Open(Options options, const BooksPosition& last,
                                                             const BooksPosition& continues) {
  GANTRY_RETURN_IF_ERROR(options.file_system->CreateDirectory(options.directory));
  GANTRY_ASSIGN_OR_RETURN(CommandLogReader reader,
                          CommandLogReader::Open(options.file_system, options.directory, options.books_id));
  std::unique_ptr<CommandLog> log(new CommandLog(std::move(options)));
  absl::StatusOr<LogRecord> again = reader.Last(last.epoch);
  if (!again.ok() && !absl::IsNotFound(again.status())) return again.status();
  const bool has_last = again.ok() && again->type != LogRecord::kSegment && again->position == last;
  GANTRY_RETURN_IF_ERROR(log->Begin({last.epoch, has_last ? last.sequence : last.sequence + 1}, continues));
  if (has_last) GANTRY_RETURN_IF_ERROR(log->Append(*again));
  return log;
}

absl::Status CommandLog::Begin(const BooksPosition& first, const BooksPosition& continues) {
  // A start that wrote nothing of its own leaves a segment with the same beginning.
  for (int again = 0;; ++again) {
    path_ = options_.directory + "/" + NameOf(first, again);
    absl::StatusOr<std::unique_ptr<File>> file = options_.file_system->Create(path_);
    if (absl::IsAlreadyExists(file.status()) && again < kStartsMax) continue;
    if (!file.ok()) return file.status();
    file_ = *std::move(file);
    break;
  }
  segment_bytes_ = 0;
  LogRecord head;
  head.position = first;
  head.type = LogRecord::kSegment;
  head.body = options_.books_id.ToBytes();
  PutInteger(continues.epoch, &head.body);
  PutInteger(continues.sequence, &head.body);
  return Write(Encode(head), true);
}

absl::Status CommandLog::Write(const std::string& bytes, bool begins) {
  absl::Status status = file_->Append(bytes);
  // Where no room was for all of it, a part of a record is what no reader takes for one. Else nobody knows.
  uncertain_ = !begins && !status.ok() && !absl::IsResourceExhausted(status);
  if (status.ok()) {
    status = file_->Sync();
    if (status.ok() && begins) status = options_.file_system->SyncDirectory(options_.directory);
    uncertain_ = !begins && !status.ok();
  }
  if (!status.ok()) {
    dead_ = absl::Status(status.code(), absl::StrCat("the command log cannot be written: ", status.message()));
    return dead_;
  }
  segment_bytes_ += static_cast<int64_t>(bytes.size());
  bytes_written_ += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status CommandLog::Append(const LogRecord& record) {
  if (!dead_.ok()) return dead_;
  if (record.body.size() > kBodyMax) {
    return absl::InvalidArgumentError(absl::StrCat("a group of commands changed ", record.body.size(),
                                                   " bytes at once, the command log takes ", kBodyMax));
  }
  if (segment_bytes_ >= options_.segment_bytes) {
    absl::Status begun = Begin(record.position, {});
    if (!begun.ok()) {
      if (dead_.ok()) {
        dead_ = absl::Status(begun.code(), absl::StrCat("the command log cannot be written: ", begun.message()));
      }
      return dead_;
    }
  }
  return Write(Encode(record), false);
}

absl::Status CommandLog::Prune(FileSystem* file_system, const std::string& directory, const BooksPosition& covered) {
  GANTRY_ASSIGN_OR_RETURN(const std::vector<std::string> names, file_system->List(directory));
  std::vector<std::pair<BooksPosition, std::string>> segments;  // sorted as the names are
  for (const std::string& name : names) {
    BooksPosition first;
    if (ParseName(name, &first)) segments.emplace_back(first, directory + "/" + name);
  }
  bool removed = false;
  for (size_t i = 0; i < segments.size(); ++i) {
    const BooksPosition& first = segments[i].first;
    // What is in a segment comes before the first record of the next, or is that very record.
    const bool is_covered = first.epoch < covered.epoch || (first.epoch == covered.epoch && i + 1 < segments.size() &&
                                                            segments[i + 1].first.epoch == first.epoch &&
                                                            segments[i + 1].first.sequence <= covered.sequence);
    if (!is_covered) continue;
    GANTRY_RETURN_IF_ERROR(file_system->Remove(segments[i].second));
    removed = true;
  }
  return removed ? file_system->SyncDirectory(directory) : absl::OkStatus();
}

}  // namespace gantry::billing
