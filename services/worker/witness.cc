#include "services/worker/witness.h"

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "services/common/backoff.h"
#include "services/common/log.h"

namespace gantry::worker {
namespace {

constexpr uint32_t kWitnessRecordType = 1;
constexpr size_t kRecordBytesMax = 1024;
constexpr int kBatchRecordsMax = 512;

}  // namespace

absl::StatusOr<std::unique_ptr<WitnessBoard>> WitnessBoard::Open(const std::string& path,
                                                                 std::vector<BoardSlot>* open_slots) {
  constexpr size_t kBytes = sizeof(BoardSlot) * kSlots;
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, kBytes) != 0) {
    const int saved_errno = errno;
    if (fd >= 0) close(fd);
    return absl::ErrnoToStatus(saved_errno, absl::StrCat(path, ": cannot be opened"));
  }
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int saved_errno = errno;
  close(fd);
  if (memory == MAP_FAILED) return absl::ErrnoToStatus(saved_errno, absl::StrCat(path, ": cannot be mapped"));
  auto* slots = static_cast<BoardSlot*>(memory);
  for (int i = 0; i < kSlots; ++i) {
    if (slots[i].in_use == 1) open_slots->push_back(slots[i]);
  }
  auto board = std::unique_ptr<WitnessBoard>(new WitnessBoard(slots));
  board->free_.resize(kSlots);
  std::iota(board->free_.rbegin(), board->free_.rend(), 0);
  return board;
}

WitnessBoard::~WitnessBoard() {
  munmap(slots_, sizeof(BoardSlot) * kSlots);
}

absl::StatusOr<BoardSlot*> WitnessBoard::Take(const BoardSlot& initial) {
  std::lock_guard lock(mutex_);
  if (free_.empty()) return absl::ResourceExhaustedError(absl::StrCat("all ", kSlots, " witness slots are taken"));
  BoardSlot* slot = slots_ + free_.back();
  free_.pop_back();
  *slot = initial;
  std::atomic_ref<uint64_t>(slot->in_use).store(1, std::memory_order_release);
  return slot;
}

void WitnessBoard::Release(BoardSlot* slot) {
  std::atomic_ref<uint64_t>(slot->in_use).store(0, std::memory_order_release);
  std::lock_guard lock(mutex_);
  free_.push_back(static_cast<int>(slot - slots_));
}

void WitnessBoard::Advance(BoardSlot* slot, uint64_t to_index, uint64_t cached_tokens) {
  slot->cached_tokens = cached_tokens;
  std::atomic_ref<uint64_t>(slot->to_index).store(to_index, std::memory_order_release);
}

absl::StatusOr<std::unique_ptr<WitnessSender>> WitnessSender::Start(Options options) {
  auto sender = std::unique_ptr<WitnessSender>(new WitnessSender(std::move(options)));
  std::vector<SpoolRecord> replayed;
  SpoolOptions spool_options{.directory = sender->options_.state_dir + "/spool",
                             .durability = sender->options_.durability};
  GANTRY_ASSIGN_OR_RETURN(sender->spool_, Spool::Open(PosixFileSystem(), spool_options, &replayed));
  sender->retention_ = std::make_unique<SpoolRetention>(sender->spool_.get());
  std::vector<BoardSlot> open_slots;
  GANTRY_ASSIGN_OR_RETURN(sender->board_,
                          WitnessBoard::Open(sender->options_.state_dir + "/witness.board", &open_slots));

  // Everything not acknowledged is written anew, then the old segments go. How long before the restart a record ended
  // is not known any more: it counts from now, and billing clamps to when it granted the hold.
  for (const SpoolRecord& record : replayed) {
    v1::WitnessRecord witness;
    if (!witness.ParseFromString(record.payload))
      return absl::DataLossError(absl::StrCat("witness spool: record ", record.sequence, " cannot be read"));
    GANTRY_ASSIGN_OR_RETURN(Spool::Reservation reservation, sender->Reserve());
    sender->Add(std::move(witness), std::move(reservation));
  }
  for (const BoardSlot& slot : open_slots) {
    v1::WitnessRecord witness;
    // Made from the request, so that a second crash before the acknowledgement does not count twice.
    std::string id(reinterpret_cast<const char*>(slot.request_id), sizeof(slot.request_id));
    witness.set_request_id(id);
    id[15] = static_cast<char>(id[15] ^ static_cast<char>(0x80 | slot.sequence));
    id[14] = static_cast<char>(id[14] ^ static_cast<char>(slot.attempt));
    witness.set_record_id(id);
    witness.set_hold_id(std::string(reinterpret_cast<const char*>(slot.hold_id), sizeof(slot.hold_id)));
    witness.set_party_id(std::string(reinterpret_cast<const char*>(slot.tenant), sizeof(slot.tenant)));
    witness.set_attempt(slot.attempt);
    witness.set_sequence(slot.sequence);
    witness.set_from_index(slot.from_index);
    witness.set_to_index(slot.to_index);
    witness.set_prompt_tokens(slot.prompt_tokens);
    witness.set_cached_tokens(slot.cached_tokens);
    witness.set_finish_reason(v1::FINISH_REASON_ERROR);
    witness.set_model(sender->options_.model);
    GANTRY_ASSIGN_OR_RETURN(Spool::Reservation reservation, sender->Reserve());
    sender->Add(std::move(witness), std::move(reservation));
  }
  if (!open_slots.empty()) {
    Log(LogLevel::kWarning, "a crash left sequences open; their witness records are on the way",
        {{"sequences", absl::StrCat(open_slots.size())}});
  }
  {
    std::unique_lock lock(sender->mutex_);
    const size_t wanted = replayed.size() + open_slots.size();
    if (!sender->changed_.wait_for(lock, std::chrono::seconds(10), [&] { return sender->waiting_.size() >= wanted; })) {
      return absl::UnavailableError(absl::StrCat(spool_options.directory, ": the witness spool cannot be written"));
    }
  }
  sender->spool_->DropReplayed();
  // Slots of the crash are free only now that their records are durable.
  for (int i = 0; i < WitnessBoard::kSlots; ++i) sender->board_->Clear(i);
  sender->thread_ = std::thread([s = sender.get()] { s->Loop(); });
  return sender;
}

WitnessSender::~WitnessSender() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    if (context_ != nullptr) static_cast<grpc::ClientContext*>(context_)->TryCancel();
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<Spool::Reservation> WitnessSender::Reserve() {
  return spool_->Reserve(Spool::BytesOf(kRecordBytesMax));
}

void WitnessSender::Add(v1::WitnessRecord record, Spool::Reservation reservation) {
  if (record.record_id().empty()) record.set_record_id(NewTimeOrderedId().ToBytes());
  const std::string bytes = record.SerializeAsString();
  auto waiting = std::make_shared<Waiting>(Waiting{std::move(record), absl::Now(), 0});
  auto sequence = std::make_shared<std::atomic<uint64_t>>(0);
  const uint64_t assigned =
      spool_->Append(kWitnessRecordType, bytes, &reservation, [this, waiting, sequence](absl::Status status) {
        if (!status.ok()) {
          // The gateway's witness still tells; billing bills and flags it. There is nobody to return an error to.
          Log(LogLevel::kError, "a witness record could not be written", {{"error", std::string(status.message())}});
        }
        std::lock_guard lock(mutex_);
        waiting->spool_sequence = sequence->load();
        waiting_[waiting->record.record_id()] = std::move(*waiting);
        changed_.notify_all();
      });
  sequence->store(assigned);
}

size_t WitnessSender::pending() const {
  std::lock_guard lock(mutex_);
  return waiting_.size();
}

bool WitnessSender::Flush(absl::Duration patience) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoMilliseconds(patience), [this] { return waiting_.empty(); });
}

void WitnessSender::Loop() {
  const auto channel = MakeChannel(options_.billing, options_.identity);
  const auto stub = v1::Usage::NewStub(channel);
  Backoff backoff(absl::Milliseconds(100), absl::Seconds(5));
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
    }
    grpc::ClientContext context;
    // One stream serves an hour at most; a new one is cheap.
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
    {
      std::lock_guard lock(mutex_);
      context_ = &context;
    }
    auto stream = stub->AppendWitness(&context);
    const bool delivered = SendAll(stream.get());
    context.TryCancel();
    const grpc::Status status = stream->Finish();
    std::unique_lock lock(mutex_);
    context_ = nullptr;
    if (stopping_) return;
    if (delivered) {
      backoff.Reset();
    } else {
      lock.unlock();
      Log(LogLevel::kWarning, "billing did not take witness records; they wait in the spool",
          {{"error", status.error_message()}});
      lock.lock();
      changed_.wait_for(lock, absl::ToChronoMilliseconds(backoff.Next()), [this] { return stopping_; });
    }
  }
}

// Batch after batch, each acknowledged before the next, until nothing waits or the stream breaks (false).
bool WitnessSender::SendAll(void* opaque) {
  auto* stream = static_cast<grpc::ClientReaderWriter<v1::WitnessBatch, v1::UsageAck>*>(opaque);
  while (true) {
    v1::WitnessBatch batch;
    batch.set_worker_id(options_.worker_id);
    batch.set_worker_epoch(options_.epoch);
    {
      std::lock_guard lock(mutex_);
      if (waiting_.empty() || stopping_) return true;
      for (auto& [id, waiting] : waiting_) {
        if (batch.records_size() == kBatchRecordsMax) break;
        waiting.record.set_age_ms(
            static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Milliseconds(absl::Now() - waiting.ended))));
        *batch.add_records() = waiting.record;
      }
    }
    if (!stream->Write(batch)) return false;
    int answered = 0;
    while (answered < batch.records_size()) {
      v1::UsageAck ack;
      if (!stream->Read(&ack)) return false;
      std::vector<std::string> done(ack.record_ids().begin(), ack.record_ids().end());
      for (const v1::RejectedRecord& rejected : ack.rejected()) {
        Log(LogLevel::kError, "billing rejected a witness record", {{"reason", rejected.reason()}});
        done.push_back(rejected.record_id());
      }
      std::lock_guard lock(mutex_);
      for (const std::string& id : done) {
        const auto waiting = waiting_.find(id);
        if (waiting == waiting_.end()) continue;
        retention_->Acked(waiting->second.spool_sequence, ack.acked_us(), ack.covered_us());
        waiting_.erase(waiting);
      }
      answered += static_cast<int>(done.size());
      changed_.notify_all();
    }
  }
}

}  // namespace gantry::worker
