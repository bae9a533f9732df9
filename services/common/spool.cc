#include "services/common/spool.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "services/common/crc32c.h"
#include "services/common/little_endian.h"

namespace gantry {
namespace {

constexpr size_t kHeaderBytes = 4 + 4 + 8 + 8 + 8 + 4;
constexpr char kSuffix[] = ".spool";
// How long a failing spool waits before it looks whether the disk is well again.
constexpr absl::Duration kProbeAfter = absl::Seconds(1);

void Encode(uint64_t sequence, uint64_t last_durable, uint64_t previous, uint32_t type, absl::string_view payload,
            std::string* out) {
  std::string body;
  body.reserve(kHeaderBytes + payload.size());
  PutInteger(sequence, &body);
  PutInteger(last_durable, &body);
  PutInteger(previous, &body);
  PutInteger(type, &body);
  body.append(payload.data(), payload.size());
  PutInteger(static_cast<uint32_t>(payload.size()), out);
  PutInteger(Crc32c(body), out);
  *out += body;
}

// "" when a whole record is at `at`, else what is wrong. Its length in all.
std::string Check(absl::string_view data, size_t at, size_t payload_max, size_t* bytes) {
  const size_t left = data.size() - at;
  const uint32_t length = left >= kHeaderBytes ? GetInteger<uint32_t>(&data[at]) : 0;
  if (left < kHeaderBytes || length > payload_max || left < kHeaderBytes + length) return "an incomplete record";
  *bytes = kHeaderBytes + length;
  if (Crc32c(data.substr(at + 8, *bytes - 8)) != GetInteger<uint32_t>(&data[at + 4])) {
    return "a record whose checksum does not fit";
  }
  return "";
}

// Whether a whole record after `at` of the same segment says that `sequence` was durable before it was written.
bool KnownAsDurable(absl::string_view data, size_t at, uint64_t sequence, size_t payload_max) {
  for (++at; at + kHeaderBytes <= data.size(); ++at) {
    size_t bytes = 0;
    if (GetInteger<uint64_t>(&data[at + 16]) >= sequence && Check(data, at, payload_max, &bytes).empty()) return true;
  }
  return false;
}

// Whether the first record of the segment after the one that begins with `first` says so.
bool KnownByNext(absl::string_view next, uint64_t first, uint64_t sequence, size_t payload_max) {
  size_t bytes = 0;
  return next.size() >= kHeaderBytes && Check(next, 0, payload_max, &bytes).empty() &&
         GetInteger<uint64_t>(&next[24]) == first && GetInteger<uint64_t>(&next[16]) >= sequence;
}

}  // namespace

Spool::Reservation& Spool::Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    Release();
    spool_ = std::exchange(other.spool_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void Spool::Reservation::Release() {
  if (spool_ == nullptr) return;
  std::lock_guard lock(spool_->mutex_);
  spool_->reserved_ -= bytes_;
  spool_ = nullptr;
  bytes_ = 0;
}

int64_t Spool::BytesOf(size_t payload_bytes) {
  return static_cast<int64_t>(kHeaderBytes + payload_bytes);
}

absl::StatusOr<std::unique_ptr<Spool>> Spool::Open(FileSystem* file_system, const SpoolOptions& options,
                                                   std::vector<SpoolRecord>* replayed) {
  auto spool = std::unique_ptr<Spool>(new Spool(file_system, options));
  GANTRY_RETURN_IF_ERROR(file_system->CreateDirectory(options.directory));
  GANTRY_RETURN_IF_ERROR(spool->Replay(replayed));
  spool->thread_ = std::thread([s = spool.get()] { s->Loop(); });
  return spool;
}

Spool::~Spool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

absl::Status Spool::Replay(std::vector<SpoolRecord>* replayed) {
  GANTRY_ASSIGN_OR_RETURN(const std::vector<std::string> names, file_system_->List(options_.directory));
  std::vector<std::string> segments;
  for (const std::string& name : names) {
    if (absl::EndsWith(name, kSuffix)) segments.push_back(options_.directory + "/" + name);
  }
  for (size_t i = 0; i < segments.size(); ++i) {
    Segment segment;
    segment.path = segments[i];
    segment.sealed = true;
    const std::string next = i + 1 < segments.size() ? segments[i + 1] : "";
    GANTRY_RETURN_IF_ERROR(ReadSegment(segments[i], next, replayed, &segment.bytes));
    if (segment.bytes == 0) {
      // Made before a crash and never filled: the next segment may need its name.
      GANTRY_RETURN_IF_ERROR(file_system_->Remove(segment.path));
      continue;
    }
    bytes_ += segment.bytes;
    replayed_.push_back(std::move(segment));
  }
  if (!replayed->empty()) next_sequence_ = replayed->back().sequence + 1;
  return absl::OkStatus();
}

absl::Status Spool::ReadSegment(const std::string& path, const std::string& next, std::vector<SpoolRecord>* replayed,
                                int64_t* bytes) {
  GANTRY_ASSIGN_OR_RETURN(const std::string data, file_system_->Read(path));
  size_t at = 0;
  uint64_t first = 0;
  if (!absl::SimpleAtoi(
          path.substr(options_.directory.size() + 1, path.size() - options_.directory.size() - sizeof(kSuffix)),
          &first)) {
    return absl::DataLossError(absl::StrCat(path, ": expected the name of a segment, 20 digits"));
  }
  uint64_t expected = first;
  while (at < data.size()) {
    size_t length = 0;
    const std::string wrong = Check(data, at, options_.record_bytes_max, &length);
    if (!wrong.empty()) {
      std::string after;
      if (!next.empty()) {
        GANTRY_ASSIGN_OR_RETURN(after, file_system_->Read(next));
      }
      if (KnownAsDurable(data, at, expected, options_.record_bytes_max) ||
          KnownByNext(after, first, expected, options_.record_bytes_max)) {
        return absl::DataLossError(absl::StrCat(path, ": ", wrong, " at offset ", at));
      }
      if (next.empty()) GANTRY_RETURN_IF_ERROR(file_system_->Truncate(path, static_cast<int64_t>(at)));
      break;
    }
    SpoolRecord record;
    record.sequence = GetInteger<uint64_t>(&data[at + 8]);
    record.type = GetInteger<uint32_t>(&data[at + 32]);
    record.payload = data.substr(at + kHeaderBytes, length - kHeaderBytes);
    if (!replayed->empty() && record.sequence <= replayed->back().sequence) {
      return absl::DataLossError(
          absl::StrCat(path, ": sequence ", record.sequence, " after ", replayed->back().sequence, " at offset ", at));
    }
    expected = record.sequence + 1;
    replayed->push_back(std::move(record));
    at += length;
  }
  *bytes = static_cast<int64_t>(at);
  return absl::OkStatus();
}

absl::StatusOr<Spool::Reservation> Spool::Reserve(int64_t bytes) {
  std::unique_lock lock(mutex_);
  if (failing_) {
    if (absl::Now() - failed_at_ > kProbeAfter) {
      failed_at_ = absl::Now();
      probe_ = true;
      lock.unlock();
      wake_.notify_one();
    }
    return absl::UnavailableError(absl::StrCat("the spool ", options_.directory, " cannot be written at the moment"));
  }
  if (bytes_ + queued_bytes_ + reserved_ + bytes > options_.total_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the spool ", options_.directory,
                                                     " is full: ", bytes_ + queued_bytes_, " bytes used and ",
                                                     reserved_, " reserved of ", options_.total_bytes));
  }
  reserved_ += bytes;
  return Reservation(this, bytes);
}

uint64_t Spool::Append(uint32_t type, absl::string_view payload, Reservation* reservation,
                       std::function<void(absl::Status)> done) {
  GANTRY_CHECK(payload.size() <= options_.record_bytes_max, "a record fits its bound");
  const int64_t bytes = BytesOf(payload.size());
  GANTRY_CHECK(reservation->spool_ == this && reservation->bytes_ >= bytes, "space was reserved before");
  uint64_t sequence = 0;
  {
    std::lock_guard lock(mutex_);
    reservation->bytes_ -= bytes;
    reserved_ -= bytes;
    queued_bytes_ += bytes;
    sequence = next_sequence_++;
    ++records_;
    queue_.push_back(Pending{sequence, type, std::string(payload), std::move(done)});
  }
  wake_.notify_one();
  return sequence;
}

void Spool::Ack(uint64_t sequence) {
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    auto segment = segments_.upper_bound(sequence);
    if (segment == segments_.begin()) return;
    --segment;
    if (segment->second.unacked > 0) --segment->second.unacked;
    wake = segment->second.unacked == 0 && segment->second.sealed;
  }
  if (wake) wake_.notify_one();
}

void Spool::DropReplayed() {
  {
    std::lock_guard lock(mutex_);
    for (Segment& segment : replayed_) {
      removable_.push_back(segment.path);
      bytes_ -= segment.bytes;
    }
    replayed_.clear();
  }
  wake_.notify_one();
}

SpoolStats Spool::Stats() const {
  std::lock_guard lock(mutex_);
  SpoolStats stats;
  stats.bytes = bytes_ + queued_bytes_;
  stats.reserved_bytes = reserved_;
  stats.segments = static_cast<int>(segments_.size() + replayed_.size());
  stats.commits = commits_;
  stats.records = records_;
  stats.last_sync_ms = last_sync_ms_;
  stats.failing = failing_;
  return stats;
}

void Spool::Loop() {
  std::vector<Pending> batch;
  while (true) {
    bool probe = false;
    {
      std::unique_lock lock(mutex_);
      const auto removable = [this] {
        return !removable_.empty() || std::any_of(segments_.begin(), segments_.end(), [](const auto& s) {
          return s.second.sealed && s.second.unacked == 0;
        });
      };
      wake_.wait(lock, [&] { return !queue_.empty() || stopping_ || probe_ || removable(); });
      if (queue_.empty() && stopping_) return;
      while (!queue_.empty()) {
        batch.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
      probe = std::exchange(probe_, false);
    }
    if (!batch.empty() || probe) {
      const absl::Status status = Commit(batch);
      {
        std::lock_guard lock(mutex_);
        failing_ = !status.ok();
        if (failing_) failed_at_ = absl::Now();
      }
      for (Pending& pending : batch) {
        if (pending.done) pending.done(status);
      }
      batch.clear();
    }
    RemoveUnneeded();
  }
}

absl::Status Spool::OpenSegment(uint64_t first_sequence) {
  current_path_ = absl::StrFormat("%s/%020d%s", options_.directory, first_sequence, kSuffix);
  GANTRY_ASSIGN_OR_RETURN(file_, file_system_->Create(current_path_));
  current_bytes_ = 0;
  if (options_.durability == Durability::kFsync)
    GANTRY_RETURN_IF_ERROR(file_system_->SyncDirectory(options_.directory));
  return absl::OkStatus();
}

// One write and one sync for the whole batch. An empty batch only tries whether a segment can be made.
absl::Status Spool::Commit(const std::vector<Pending>& batch) {
  uint64_t first = 0;
  absl::Status status;
  if (file_ == nullptr) {
    {
      // A probe takes a number of its own: two segments never share a name.
      std::lock_guard lock(mutex_);
      first = batch.empty() ? next_sequence_++ : batch.front().sequence;
    }
    status = OpenSegment(first);
    previous_first_ = std::exchange(current_first_, first);
    if (status.ok()) {
      std::lock_guard lock(mutex_);
      segments_[first] = Segment{current_path_, 0, 0, false};
    }
  }
  std::string bytes;
  for (const Pending& pending : batch) {
    Encode(pending.sequence, last_durable_, previous_first_, pending.type, pending.payload, &bytes);
  }
  const auto begin = std::chrono::steady_clock::now();
  if (status.ok() && !bytes.empty()) status = file_->Append(bytes);
  if (status.ok() && options_.durability == Durability::kFsync) status = file_->Sync();
  const double sync_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();

  if (status.ok() && !batch.empty()) last_durable_ = batch.back().sequence;

  std::lock_guard lock(mutex_);
  queued_bytes_ -= static_cast<int64_t>(bytes.size());
  ++commits_;
  last_sync_ms_ = sync_ms;
  if (!segments_.empty()) {
    Segment& segment = segments_.rbegin()->second;
    if (status.ok()) {
      segment.bytes += static_cast<int64_t>(bytes.size());
      segment.unacked += batch.size();
      bytes_ += static_cast<int64_t>(bytes.size());
      current_bytes_ += static_cast<int64_t>(bytes.size());
    }
    if (!status.ok() || current_bytes_ >= options_.segment_bytes) segment.sealed = true;
  }
  if (!status.ok() || current_bytes_ >= options_.segment_bytes) file_.reset();
  return status;
}

void Spool::RemoveUnneeded() {
  std::vector<std::string> paths;
  {
    std::lock_guard lock(mutex_);
    paths.swap(removable_);
    for (auto segment = segments_.begin(); segment != segments_.end();) {
      if (segment->second.sealed && segment->second.unacked == 0) {
        paths.push_back(segment->second.path);
        bytes_ -= segment->second.bytes;
        segment = segments_.erase(segment);
      } else {
        ++segment;
      }
    }
  }
  // A segment that cannot be removed is only read again at the next start; its records are known by then.
  for (const std::string& path : paths) file_system_->Remove(path).IgnoreError();
  if (!paths.empty() && options_.durability == Durability::kFsync)
    file_system_->SyncDirectory(options_.directory).IgnoreError();
}

}  // namespace gantry
