#include "gateway/metering/usage_journal.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "services/common/log.h"

namespace gantry::gateway {
namespace {

using Clock = std::chrono::steady_clock;

// Types of spool records. Opening, progress and final are UsageRecord messages, slices are GrantSliceRequest messages
// whose wanted_micro is what was granted. Numbers are on disk: never reuse one.
enum RecordType : uint32_t { kOpening = 1, kProgress = 2, kFinal = 3, kSlice = 4, kSliceClosed = 5 };

constexpr uint64_t kProgressTokens = 64;
constexpr auto kProgressInterval = std::chrono::milliseconds(250);
// A final record: fixed fields, a model name of <= 256 bytes, 16 sequences.
constexpr size_t kFinalBytesMax = 2048;

}  // namespace

void UsageJournal::Append(uint32_t type, const std::string& payload, Spool::Reservation* space,
                          std::function<void(uint64_t, absl::Status)> done) {
  // The sequence comes from Append, the status from the spool's thread; whoever is second calls.
  struct State {
    absl::Mutex mu;
    uint64_t sequence = 0;
    std::optional<absl::Status> status;
    std::function<void(uint64_t, absl::Status)> done;
  };
  auto state = std::make_shared<State>();
  state->done = std::move(done);
  uint64_t sequence = spool_->Append(type, payload, space, [state](absl::Status status) {
    {
      absl::MutexLock lock(&state->mu);
      state->status = status;
      if (state->sequence == 0) return;
    }
    state->done(state->sequence, status);
  });
  {
    absl::MutexLock lock(&state->mu);
    state->sequence = sequence;
    if (!state->status.has_value()) return;
  }
  state->done(sequence, *state->status);
}

// ---- opening and recovery ----

absl::StatusOr<std::shared_ptr<UsageJournal>> UsageJournal::Open(FileSystem* file_system, const SpoolOptions& options,
                                                                 std::vector<Slice>* orphans) {
  std::vector<SpoolRecord> replayed;
  absl::StatusOr<std::unique_ptr<Spool>> spool = Spool::Open(file_system, options, &replayed);
  if (!spool.ok()) return spool.status();
  auto journal = std::shared_ptr<UsageJournal>(new UsageJournal);
  journal->spool_ = *std::move(spool);
  journal->retention_ = std::make_unique<SpoolRetention>(journal->spool_.get());
  absl::Status recovered = journal->Recover(std::move(replayed), orphans);
  if (!recovered.ok()) return recovered;
  return journal;
}

UsageJournal::~UsageJournal() = default;

absl::Status UsageJournal::Recover(std::vector<SpoolRecord> replayed, std::vector<Slice>* orphans) {
  if (replayed.empty()) return absl::OkStatus();
  struct Open {
    v1::UsageRecord opening;
    v1::UsageRecord progress;
    bool finished = false;
  };
  std::map<std::string, Open> requests;  // by record id; time-ordered
  std::vector<v1::UsageRecord> finals;
  std::map<std::string, Slice> slices;
  for (const SpoolRecord& entry : replayed) {
    if (entry.type == kSlice || entry.type == kSliceClosed) {
      v1::GrantSliceRequest message;
      auto id = message.ParseFromString(entry.payload) ? Id16::FromBytes(message.slice_id())
                                                       : absl::StatusOr<Id16>(absl::DataLossError("not a message"));
      if (!id.ok()) return absl::DataLossError(absl::StrCat("spool record ", entry.sequence, ": not a slice"));
      if (entry.type == kSliceClosed) {
        slices.erase(message.slice_id());
      } else {
        auto party = Id16::FromBytes(message.party_id());
        slices[message.slice_id()] = {*id, party.ok() ? *party : Id16{}, message.wanted_micro()};
      }
      continue;
    }
    v1::UsageRecord record;
    if (!record.ParseFromString(entry.payload) || record.record_id().size() != 16) {
      return absl::DataLossError(absl::StrCat("spool record ", entry.sequence, ": not a usage record"));
    }
    Open& open = requests[record.record_id()];
    if (entry.type == kOpening) {
      open.opening = std::move(record);
    } else if (entry.type == kProgress) {
      open.progress = std::move(record);
    } else if (entry.type == kFinal) {
      if (!open.finished) finals.push_back(std::move(record));
      open.finished = true;
    }
  }
  size_t lost = 0;
  for (auto& [id, open] : requests) {
    // Progress whose opening is gone belongs to a request whose final record billing took: segments go when all of
    // their records are done with.
    if (open.finished || open.opening.record_id().empty()) continue;
    v1::UsageRecord record = std::move(open.opening);
    record.set_outcome(v1::USAGE_OUTCOME_GATEWAY_LOST);
    record.set_prompt_tokens(open.progress.prompt_tokens());
    record.set_cached_tokens(open.progress.cached_tokens());
    record.set_output_tokens(open.progress.output_tokens());
    record.set_wall_us(std::max(open.progress.wall_us(), record.wall_us()));
    for (v1::SequenceUsage& sequence : *record.mutable_sequences()) sequence.set_attempts(1);
    finals.push_back(std::move(record));
    ++lost;
  }

  // Written anew, so that the old segments can go; the same ids make a crash in the middle harmless. Shared with the
  // spool's callbacks, which may come after an error has ended this function.
  struct Writing {
    absl::Mutex mu;
    size_t left ABSL_GUARDED_BY(mu) = 0;
    absl::Status status ABSL_GUARDED_BY(mu);
  };
  auto writing = std::make_shared<Writing>();
  const auto append = [&](uint32_t type, const std::string& payload) -> absl::StatusOr<uint64_t> {
    absl::StatusOr<Spool::Reservation> space = spool_->Reserve(Spool::BytesOf(payload.size()));
    if (!space.ok()) return space.status();
    {
      absl::MutexLock lock(&writing->mu);
      ++writing->left;
    }
    return spool_->Append(type, payload, &*space, [writing](const absl::Status& status) {
      absl::MutexLock lock(&writing->mu);
      writing->status.Update(status);
      --writing->left;
    });
  };
  std::vector<std::pair<v1::UsageRecord, uint64_t>> appended;
  for (v1::UsageRecord& record : finals) {
    const absl::StatusOr<uint64_t> sequence = append(kFinal, record.SerializeAsString());
    if (!sequence.ok()) return sequence.status();
    appended.emplace_back(std::move(record), *sequence);
  }
  for (const auto& [id, slice] : slices) {
    v1::GrantSliceRequest message;
    message.set_slice_id(slice.id.ToBytes());
    message.set_party_id(slice.party.ToBytes());
    message.set_wanted_micro(slice.granted_micro);
    const absl::StatusOr<uint64_t> sequence = append(kSlice, message.SerializeAsString());
    if (!sequence.ok()) return sequence.status();
    absl::MutexLock lock(&mu_);
    slice_sequences_[slice.id] = *sequence;
    orphans->push_back(slice);
    orphans->back().records = static_cast<uint32_t>(std::count_if(
        appended.begin(), appended.end(), [&](const auto& entry) { return entry.first.slice_id() == id; }));
  }
  {
    absl::MutexLock lock(&writing->mu);
    const auto written = [&]() ABSL_SHARED_LOCKS_REQUIRED(writing->mu) { return writing->left == 0; };
    writing->mu.Await(absl::Condition(&written));
    if (!writing->status.ok()) return writing->status;
  }
  spool_->DropReplayed();
  const int64_t now_us = absl::ToUnixMicros(absl::Now());
  for (auto& [record, sequence] : appended) {
    // The old monotonic clock is gone: the wall clock has to say how long ago the request ended.
    auto age = std::chrono::microseconds(
        std::max<int64_t>(0, now_us - static_cast<int64_t>(record.wall_us() == 0 ? now_us : record.wall_us())));
    AddPending(std::move(record), sequence, Clock::now() - age);
  }
  Log(LogLevel::kInfo, "usage spool recovered",
      {{"records", appended.size()}, {"lost_requests", lost}, {"slices", slices.size()}});
  return absl::OkStatus();
}

// ---- one request ----

absl::StatusOr<std::unique_ptr<UsageJournal::Entry>> UsageJournal::Begin(v1::UsageRecord opening) {
  opening.set_record_id(NewTimeOrderedId().ToBytes());
  opening.set_wall_us(absl::ToUnixMicros(absl::Now()));
  std::string payload = opening.SerializeAsString();
  const int64_t open_bytes = Spool::BytesOf(payload.size());
  absl::StatusOr<Spool::Reservation> space = spool_->Reserve(open_bytes + Spool::BytesOf(kFinalBytesMax));
  if (!space.ok()) return space.status();
  std::unique_ptr<Entry> entry(new Entry);
  entry->journal_ = shared_from_this();
  entry->opening_ = std::move(opening);
  entry->reservation_ = *std::move(space);
  entry->written_at_ = Clock::now();
  entry->superseded_ = std::make_shared<std::atomic<uint64_t>>(0);
  entry->open_sequence_ = spool_->Append(kOpening, payload, &entry->reservation_, [](absl::Status) {});
  return entry;
}

UsageJournal::Entry::~Entry() {
  if (finished_) return;
  v1::UsageRecord record;
  record.set_outcome(v1::USAGE_OUTCOME_FAILED);
  Finish(std::move(record), [](absl::Status) {});
}

void UsageJournal::Entry::Progress(uint64_t prompt_tokens, uint64_t cached_tokens, uint64_t output_tokens) {
  if (finished_ || output_tokens <= written_tokens_) return;
  const auto now = Clock::now();
  if (output_tokens < written_tokens_ + kProgressTokens && now < written_at_ + kProgressInterval) return;
  v1::UsageRecord record;
  record.set_record_id(opening_.record_id());
  record.set_prompt_tokens(prompt_tokens);
  record.set_cached_tokens(cached_tokens);
  record.set_output_tokens(output_tokens);
  record.set_wall_us(absl::ToUnixMicros(absl::Now()));
  std::string payload = record.SerializeAsString();
  // A full spool costs precision after a crash, never the stream.
  absl::StatusOr<Spool::Reservation> space = journal_->spool_->Reserve(Spool::BytesOf(payload.size()));
  if (!space.ok()) return;
  journal_->Append(kProgress, payload, &*space,
                   [journal = journal_.get(), superseded = superseded_](uint64_t sequence, absl::Status status) {
                     if (!status.ok()) return;
                     if (uint64_t last = superseded->exchange(sequence)) journal->spool_->Ack(last);
                   });
  written_tokens_ = output_tokens;
  written_at_ = now;
}

void UsageJournal::Entry::Finish(v1::UsageRecord record, std::function<void(absl::Status)> done) {
  finished_ = true;
  record.set_record_id(opening_.record_id());
  record.set_request_id(opening_.request_id());
  record.set_party_id(opening_.party_id());
  record.set_key_id(opening_.key_id());
  record.set_hold_id(opening_.hold_id());
  record.set_slice_id(opening_.slice_id());
  record.set_model(opening_.model());
  record.set_plan_version_id(opening_.plan_version_id());
  record.set_wall_us(absl::ToUnixMicros(absl::Now()));
  std::string payload = record.SerializeAsString();
  journal_->Append(kFinal, payload, &reservation_,
                   [journal = journal_.get(), record = std::move(record), ended = Clock::now(), open = open_sequence_,
                    superseded = superseded_, done = std::move(done)](uint64_t sequence, absl::Status status) mutable {
                     if (status.ok()) {
                       journal->spool_->Ack(open);
                       if (uint64_t progress = superseded->exchange(0)) journal->spool_->Ack(progress);
                       journal->AddPending(std::move(record), sequence, ended);
                     } else {
                       Log(LogLevel::kError, "a usage record could not be written", {{"error", status.message()}});
                     }
                     done(status);
                   });
  reservation_.Release();
}

// ---- slices ----

absl::Status UsageJournal::SliceGranted(const Slice& slice) {
  v1::GrantSliceRequest message;
  message.set_slice_id(slice.id.ToBytes());
  message.set_party_id(slice.party.ToBytes());
  message.set_wanted_micro(slice.granted_micro);
  std::string payload = message.SerializeAsString();
  absl::StatusOr<Spool::Reservation> space = spool_->Reserve(Spool::BytesOf(payload.size()));
  if (!space.ok()) return space.status();
  uint64_t sequence = spool_->Append(kSlice, payload, &*space, [](absl::Status) {});
  absl::MutexLock lock(&mu_);
  slice_sequences_[slice.id] = sequence;
  return absl::OkStatus();
}

void UsageJournal::SliceClosed(const Id16& slice) {
  uint64_t granted = 0;
  {
    absl::MutexLock lock(&mu_);
    auto it = slice_sequences_.find(slice);
    if (it == slice_sequences_.end()) return;
    granted = it->second;
    slice_sequences_.erase(it);
  }
  v1::GrantSliceRequest message;
  message.set_slice_id(slice.ToBytes());
  std::string payload = message.SerializeAsString();
  absl::StatusOr<Spool::Reservation> space = spool_->Reserve(Spool::BytesOf(payload.size()));
  if (!space.ok()) return;  // after a crash the slice is returned once more, which is harmless
  // Needed only while the grant's own record is on disk. Acks follow what is written: an ack must not overtake it.
  Append(kSliceClosed, payload, &*space, [this, granted](uint64_t sequence, absl::Status) {
    spool_->Ack(granted);
    spool_->Ack(sequence);
  });
}

// ---- delivery ----

void UsageJournal::AddPending(v1::UsageRecord record, uint64_t sequence, Clock::time_point ended) {
  std::function<void()> ready;
  {
    absl::MutexLock lock(&mu_);
    pending_.push_back({std::move(record), sequence, ended, false});
    ready = ready_;
  }
  if (ready) ready();
}

std::vector<v1::UsageRecord> UsageJournal::NextBatch(size_t max) {
  std::vector<v1::UsageRecord> batch;
  const auto now = Clock::now();
  absl::MutexLock lock(&mu_);
  for (Pending& pending : pending_) {
    if (batch.size() >= max) break;
    if (pending.sent) continue;
    pending.sent = true;
    batch.push_back(pending.record);
    batch.back().set_age_ms(std::chrono::duration_cast<std::chrono::milliseconds>(now - pending.ended).count());
  }
  return batch;
}

void UsageJournal::Remove(const std::string& record_id, bool taken, int64_t acked_us, int64_t covered_us) {
  uint64_t sequence = 0;
  absl::StatusOr<Id16> credit = absl::NotFoundError("");
  std::function<void(const Id16&, bool)> listener;
  {
    absl::MutexLock lock(&mu_);
    auto it = std::find_if(pending_.begin(), pending_.end(),
                           [&](const Pending& pending) { return pending.record.record_id() == record_id; });
    if (it == pending_.end()) return;
    sequence = it->sequence;
    credit = Id16::FromBytes(it->record.slice_id().empty() ? it->record.hold_id() : it->record.slice_id());
    pending_.erase(it);
    listener = acked_;
  }
  retention_->Acked(sequence, acked_us, covered_us);
  if (credit.ok() && listener) listener(*credit, taken);
}

void UsageJournal::Acked(const std::string& record_id, int64_t acked_us, int64_t covered_us) {
  Remove(record_id, /*taken=*/true, acked_us, covered_us);
}

void UsageJournal::Rejected(const std::string& record_id, const std::string& reason) {
  auto id = Id16::FromBytes(record_id);
  Log(LogLevel::kError, "billing rejected a usage record",
      {{"record", id.ok() ? id->ToHex() : std::string("malformed")}, {"reason", reason}});
  Remove(record_id, /*taken=*/false, 0, 0);
}

void UsageJournal::Requeue() {
  std::function<void()> ready;
  {
    absl::MutexLock lock(&mu_);
    for (Pending& pending : pending_) pending.sent = false;
    if (!pending_.empty()) ready = ready_;
  }
  if (ready) ready();
}

void UsageJournal::OnReady(std::function<void()> ready) {
  absl::MutexLock lock(&mu_);
  ready_ = std::move(ready);
}

void UsageJournal::OnAcked(std::function<void(const Id16&, bool)> acked) {
  absl::MutexLock lock(&mu_);
  acked_ = std::move(acked);
}

size_t UsageJournal::pending() const {
  absl::MutexLock lock(&mu_);
  return pending_.size();
}

}  // namespace gantry::gateway
