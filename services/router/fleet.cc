#include "services/router/fleet.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/check.h"
#include "services/common/log.h"

namespace gantry::router {
namespace {

constexpr size_t kWorkerLimit = 1000;
constexpr size_t kModelsPerWorker = 64;
constexpr size_t kModelsSeenLimit = 1024;
constexpr int kBeatsPerLease = 3;
constexpr int kLeasesOfDoubt = 10;
// A tick this late says that the process stood still and heard nobody.
constexpr absl::Duration kStall = absl::Milliseconds(500);

absl::Status CheckHello(const v1::WorkerHello& hello) {
  auto bad = [](absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("hello: ", what)); };
  if (hello.worker_id().size() != 16) return bad("worker_id: expected 16 bytes");
  if (hello.epoch() == 0) return bad("epoch: expected at least 1");
  if (!absl::StartsWith(hello.address(), "unix:/") && !absl::StartsWith(hello.address(), "dns:///")) {
    return bad(absl::StrCat("address: expected unix:/path or dns:///host:port, found '", hello.address(), "'"));
  }
  if (hello.beat_ms() < 50 || hello.beat_ms() > 10'000) {
    return bad(absl::StrCat("beat_ms: expected 50..10000, found ", hello.beat_ms()));
  }
  if (hello.models_size() < 1 || hello.models_size() > static_cast<int>(kModelsPerWorker)) {
    return bad(absl::StrCat("models: expected 1..64 cards, found ", hello.models_size()));
  }
  for (const v1::ModelCard& card : hello.models()) {
    if (card.name().empty() || card.name().size() > 256) return bad("models: name: expected 1..256 bytes");
    if (card.tokenizer_sha256().size() != 32 || card.template_sha256().size() != 32) {
      return bad(absl::StrCat("models: ", card.name(), ": expected SHA-256 of tokenizer and template, 32 bytes each"));
    }
  }
  const v1::ProtocolRange& range = hello.protocol();
  if (range.min() < 1 || range.max() < range.min()) {
    return bad(absl::StrCat("protocol: expected 1 <= min <= max, found ", range.min(), "..", range.max()));
  }
  if (range.min() > kProtocolMax || range.max() < kProtocolMin) {
    return absl::FailedPreconditionError(absl::StrCat("no common protocol version: worker speaks ", range.min(), "..",
                                                      range.max(), ", router ", kProtocolMin, "..", kProtocolMax,
                                                      "; update the older of the two"));
  }
  return absl::OkStatus();
}

void Run(const std::vector<std::function<void()>>& deferred) {
  for (const auto& callback : deferred) callback();
}

}  // namespace

struct Fleet::Worker {
  uint64_t attachment = 0;
  Id16 id;
  uint64_t epoch = 0;
  std::vector<v1::ModelCard> cards;
  std::shared_ptr<AttachStream> stream;
  std::shared_ptr<grpc::Channel> channel;
  absl::Duration lease;
  absl::Duration last_seen;
  uint64_t next_sequence = 2;
  bool awaiting_snapshot = true;  // nothing is chosen before the first one
  bool has_load = false;
  bool draining = false;
  bool suspect = false;
  uint32_t max_sequences = 0;
  int64_t estimate = 0;  // reported running + queued, corrected by what happened here since
  uint64_t last_choice = 0;

  struct Held {
    uint32_t sequences;
    std::weak_ptr<Waiter> waiter;
  };
  std::map<uint64_t, Held> held;  // by ticket
  int64_t own = 0;                // sequences of `held`

  int64_t load() const { return std::max(estimate, own); }
  const v1::ModelCard* Card(const std::string& model) const {
    for (const v1::ModelCard& card : cards) {
      if (card.name() == model) return &card;
    }
    return nullptr;
  }
};

struct Fleet::Waiting {
  WaitRequest request;
  uint64_t ticket = 0;
  absl::Duration give_up;  // on the fleet's clock
  bool own_deadline = false;
  std::shared_ptr<Waiter> waiter;
};

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  Release();
  fleet_ = std::exchange(other.fleet_, nullptr);
  attachment_ = other.attachment_;
  ticket_ = other.ticket_;
  worker_id_ = other.worker_id_;
  channel_ = std::move(other.channel_);
  return *this;
}

void Reservation::Release() {
  if (fleet_ == nullptr) return;
  channel_.reset();
  std::exchange(fleet_, nullptr)->Release(attachment_, ticket_);
}

Fleet::Fleet(FleetOptions options) : options_(std::move(options)) {}
Fleet::~Fleet() = default;

absl::StatusOr<Fleet::Attached> Fleet::Attach(const v1::WorkerHello& hello, std::shared_ptr<AttachStream> stream) {
  if (absl::Status good = CheckHello(hello); !good.ok()) return good;
  Id16 id = *Id16::FromBytes(hello.worker_id());
  Deferred deferred;
  Attached attached;
  {
    absl::MutexLock lock(&mutex_);
    if (closed_.has_value()) return *closed_;
    Worker* older = nullptr;
    for (const auto& [key, worker] : workers_) {
      if (worker->id != id) continue;
      if (worker->epoch > hello.epoch()) {
        return absl::AlreadyExistsError(absl::StrCat("worker ", id.ToHex(), ": epoch ", worker->epoch,
                                                     " is attached, this is the older epoch ", hello.epoch()));
      }
      older = worker.get();
    }
    for (const v1::ModelCard& card : hello.models()) {
      for (const auto& [key, worker] : workers_) {
        const v1::ModelCard* served = worker.get() == older ? nullptr : worker->Card(card.name());
        // Gateways tokenise once for all workers of a name.
        if (served != nullptr && (served->tokenizer_sha256() != card.tokenizer_sha256() ||
                                  served->template_sha256() != card.template_sha256())) {
          return absl::FailedPreconditionError(
              absl::StrCat("model ", card.name(), ": worker ", worker->id.ToHex(),
                           " serves it with another tokenizer or template; give this one another --model-name"));
        }
      }
    }
    if (older == nullptr && workers_.size() >= kWorkerLimit) {
      return absl::ResourceExhaustedError(absl::StrCat("this router has its limit of ", kWorkerLimit, " workers"));
    }

    auto worker = std::make_unique<Worker>();
    worker->attachment = next_attachment_++;
    worker->id = id;
    worker->epoch = hello.epoch();
    worker->cards.assign(hello.models().begin(), hello.models().end());
    worker->stream = std::move(stream);
    worker->channel = options_.connect(hello.address());
    worker->lease = kBeatsPerLease * absl::Milliseconds(hello.beat_ms());
    worker->last_seen = options_.now();
    for (const v1::ModelCard& card : hello.models()) {
      if (models_seen_.size() < kModelsSeenLimit) models_seen_.insert(card.name());
    }
    attached.attachment = worker->attachment;
    attached.welcome.set_protocol(std::min(hello.protocol().max(), kProtocolMax));
    attached.welcome.set_router_epoch(options_.epoch);
    attached.welcome.set_lease_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(worker->lease)));
    workers_.emplace(worker->attachment, std::move(worker));
    if (older != nullptr) {
      bool same_process = older->epoch == hello.epoch();
      auto old_stream = older->stream;
      deferred.push_back([old_stream] {
        old_stream->Close(absl::AlreadyExistsError("this worker attached again on another stream"));
      });
      // The same process came back on a new stream: what it runs, it still runs.
      RemoveLocked(older->attachment, "the worker was started again", !same_process, &deferred);
    }
  }
  Log(LogLevel::kInfo, "worker attached",
      {{"worker", id.ToHex()}, {"epoch", hello.epoch()}, {"address", hello.address()}, {"version", hello.version()}});
  Run(deferred);
  return attached;
}

absl::StatusOr<std::optional<uint64_t>> Fleet::Report(uint64_t attachment, const v1::WorkerReport& report) {
  Deferred deferred;
  std::optional<uint64_t> ask;
  {
    absl::MutexLock lock(&mutex_);
    auto found = workers_.find(attachment);
    if (found == workers_.end()) return absl::AbortedError("this router has forgotten the worker: attach again");
    Worker& worker = *found->second;
    worker.last_seen = options_.now();
    worker.suspect = false;
    if (report.kind_case() == v1::WorkerReport::kHello) {
      return absl::InvalidArgumentError("a second hello on one stream");
    }
    if (report.sequence() < worker.next_sequence) {
      return absl::InvalidArgumentError(
          absl::StrCat("sequence went back: expected ", worker.next_sequence, ", found ", report.sequence()));
    }
    bool gap = report.sequence() > worker.next_sequence;
    bool is_snapshot = report.kind_case() == v1::WorkerReport::kSnapshot;
    if (gap && !is_snapshot && !worker.awaiting_snapshot) {
      ask = worker.next_sequence;
      worker.awaiting_snapshot = true;
      Log(LogLevel::kWarning, "gap in a worker's reports",
          {{"worker", worker.id.ToHex()}, {"expected", worker.next_sequence}, {"found", report.sequence()}});
    }
    if (is_snapshot) worker.awaiting_snapshot = false;
    worker.next_sequence = report.sequence() + 1;
    const v1::WorkerState& state = is_snapshot ? report.snapshot() : report.delta();
    // Loads are absolute, so even a delta behind a gap is good for them. Draining never goes back within an epoch.
    if (state.has_load()) {
      worker.has_load = worker.has_load || is_snapshot;
      worker.max_sequences = state.load().max_sequences();
      worker.estimate = static_cast<int64_t>(state.load().running()) + state.load().queued();
    }
    if (state.draining() && !worker.draining) {
      worker.draining = true;
      RefuseUnservedLocked(worker.cards, &deferred);
    }
    PumpAllLocked(&deferred);
  }
  Run(deferred);
  return ask;
}

void Fleet::Detach(uint64_t attachment) {
  Deferred deferred;
  {
    absl::MutexLock lock(&mutex_);
    // The process may live and only have lost this stream: requests it runs end with it, not with the stream.
    RemoveLocked(attachment, "its attach stream ended", /*tell_requests=*/false, &deferred);
  }
  Run(deferred);
}

void Fleet::RemoveLocked(uint64_t attachment, const std::string& reason, bool tell_requests, Deferred* deferred) {
  auto found = workers_.find(attachment);
  if (found == workers_.end()) return;
  std::unique_ptr<Worker> worker = std::move(found->second);
  workers_.erase(found);
  Log(LogLevel::kInfo, "worker gone",
      {{"worker", worker->id.ToHex()},
       {"epoch", worker->epoch},
       {"reason", reason},
       {"requests", worker->held.size()}});
  if (tell_requests) {
    for (const auto& [ticket, held] : worker->held) {
      deferred->push_back([waiter = held.waiter, reason] {
        if (auto alive = waiter.lock()) alive->OnWorkerLost(reason);
      });
    }
  }
  RefuseUnservedLocked(worker->cards, deferred);
}

void Fleet::RefuseUnservedLocked(const std::vector<v1::ModelCard>& cards, Deferred* deferred) {
  for (const v1::ModelCard& card : cards) {
    auto queue = queues_.find(card.name());
    if (queue == queues_.end() || IsServedLocked(card.name())) continue;
    absl::Status status = NoWorkerLocked(card.name());
    for (auto& [key, waiting] : queue->second) {
      waiting_.erase(waiting.ticket);
      deferred->push_back([waiter = std::move(waiting.waiter), status] { waiter->OnRefused(status); });
    }
    queues_.erase(queue);
  }
}

void Fleet::Tick() {
  Deferred deferred;
  {
    absl::MutexLock lock(&mutex_);
    absl::Duration now = options_.now();
    if (last_tick_.has_value() && now - *last_tick_ > kStall) {
      for (auto& [key, worker] : workers_) worker->last_seen += now - *last_tick_;
    }
    last_tick_ = now;

    std::vector<uint64_t> silent;
    for (const auto& [key, worker] : workers_) {
      if (now - worker->last_seen > worker->lease) silent.push_back(key);
    }
    bool doubt = 2 * silent.size() > workers_.size();
    for (uint64_t attachment : silent) {
      Worker& worker = *workers_.at(attachment);
      if (doubt && now - worker.last_seen <= kLeasesOfDoubt * worker.lease) {
        if (!worker.suspect) Log(LogLevel::kWarning, "worker silent, kept", {{"worker", worker.id.ToHex()}});
        worker.suspect = true;
        continue;
      }
      auto stream = worker.stream;
      deferred.push_back([stream] { stream->Close(absl::DeadlineExceededError("lease expired: attach again")); });
      RemoveLocked(attachment, "silent for longer than its lease", /*tell_requests=*/true, &deferred);
    }

    for (auto queue = queues_.begin(); queue != queues_.end();) {
      for (auto entry = queue->second.begin(); entry != queue->second.end();) {
        Waiting& waiting = entry->second;
        if (now < waiting.give_up) {
          ++entry;
          continue;
        }
        absl::Status status =
            waiting.own_deadline
                ? absl::DeadlineExceededError(absl::StrCat("model ", queue->first, ": no room before the deadline"))
                : absl::ResourceExhaustedError(absl::StrCat("model ", queue->first, ": no room within ",
                                                            absl::FormatDuration(options_.queue_wait_max)));
        waiting_.erase(waiting.ticket);
        deferred.push_back([waiter = std::move(waiting.waiter), status] { waiter->OnRefused(status); });
        entry = queue->second.erase(entry);
      }
      queue = queue->second.empty() ? queues_.erase(queue) : std::next(queue);
    }
  }
  Run(deferred);
}

bool Fleet::IsServedLocked(const std::string& model) const {
  for (const auto& [key, worker] : workers_) {
    if (!worker->draining && worker->Card(model) != nullptr) return true;
  }
  return false;
}

absl::Status Fleet::NoWorkerLocked(const std::string& model) const {
  if (models_seen_.count(model) > 0) {
    return absl::UnavailableError(absl::StrCat("model ", model, ": no worker serves it at the moment"));
  }
  if (workers_.empty()) return absl::UnavailableError(absl::StrCat("model ", model, ": no worker is attached yet"));
  std::set<std::string> known;
  for (const auto& [key, worker] : workers_) {
    for (const v1::ModelCard& card : worker->cards) known.insert(card.name());
  }
  constexpr size_t kShown = 20;
  std::vector<std::string> names(known.begin(), known.end());
  if (names.size() > kShown) names.resize(kShown);
  return absl::NotFoundError(absl::StrCat("model ", model, ": unknown; known: ", absl::StrJoin(names, ", ")));
}

Fleet::Worker* Fleet::ChooseLocked(const std::string& model, uint32_t sequences) {
  Worker* best = nullptr;
  for (const auto& [key, worker] : workers_) {
    if (worker->draining || !worker->has_load || worker->Card(model) == nullptr) continue;
    if (worker->load() > 0 && worker->load() + sequences > worker->max_sequences) continue;
    auto rank = [](const Worker& w) { return std::make_tuple(w.suspect, w.load(), w.last_choice); };
    if (best == nullptr || rank(*worker) < rank(*best)) best = worker.get();
  }
  return best;
}

void Fleet::PumpLocked(const std::string& model, Deferred* deferred) {
  auto queue = queues_.find(model);
  if (queue == queues_.end()) return;
  while (!queue->second.empty()) {
    Waiting& waiting = queue->second.begin()->second;
    Worker* worker = ChooseLocked(model, waiting.request.sequences);
    if (worker == nullptr) return;
    worker->last_choice = ++choices_;
    worker->estimate += waiting.request.sequences;
    worker->own += waiting.request.sequences;
    worker->held.emplace(waiting.ticket, Worker::Held{waiting.request.sequences, waiting.waiter});
    ++reserved_;
    Reservation reservation;
    reservation.fleet_ = this;
    reservation.attachment_ = worker->attachment;
    reservation.ticket_ = waiting.ticket;
    reservation.worker_id_ = worker->id;
    reservation.channel_ = worker->channel;
    // A std::function wants copyable captures.
    auto shared = std::make_shared<Reservation>(std::move(reservation));
    deferred->push_back([waiter = std::move(waiting.waiter), shared] { waiter->OnAssigned(std::move(*shared)); });
    waiting_.erase(waiting.ticket);
    queue->second.erase(queue->second.begin());
  }
  queues_.erase(queue);
}

void Fleet::PumpAllLocked(Deferred* deferred) {
  std::vector<std::string> models;
  for (const auto& [model, queue] : queues_) models.push_back(model);
  for (const std::string& model : models) PumpLocked(model, deferred);
}

uint64_t Fleet::Acquire(const WaitRequest& request, const std::shared_ptr<Waiter>& waiter) {
  Deferred deferred;
  uint64_t ticket = 0;
  absl::Status refusal;
  {
    absl::MutexLock lock(&mutex_);
    ticket = next_ticket_++;
    absl::Duration now = options_.now();
    if (closed_.has_value()) {
      refusal = *closed_;
    } else if (!IsServedLocked(request.model)) {
      refusal = NoWorkerLocked(request.model);
    } else if (request.deadline <= now) {
      refusal = absl::DeadlineExceededError("the deadline had passed when the request arrived");
    } else {
      Queue& queue = queues_[request.model];
      Waiting waiting;
      waiting.request = request;
      waiting.ticket = ticket;
      waiting.own_deadline = request.deadline <= now + options_.queue_wait_max;
      waiting.give_up = waiting.own_deadline ? request.deadline : now + options_.queue_wait_max;
      waiting.waiter = waiter;
      QueueKey key{-request.priority, ticket};
      queue.emplace(key, std::move(waiting));
      waiting_.emplace(ticket, std::make_pair(request.model, key));
      PumpLocked(request.model, &deferred);
      // The limit is on those that wait; the one that found no room leaves again, whatever its priority.
      auto left = queues_.find(request.model);
      if (left != queues_.end() && left->second.size() > options_.queue_limit && waiting_.erase(ticket) > 0) {
        left->second.erase(key);
        if (left->second.empty()) queues_.erase(left);
        refusal = absl::ResourceExhaustedError(absl::StrCat("model ", request.model, ": ", options_.queue_limit,
                                                            " requests are waiting already; retry after 1 s"));
      }
    }
  }
  if (!refusal.ok()) waiter->OnRefused(refusal);
  Run(deferred);
  return ticket;
}

bool Fleet::CancelWait(uint64_t ticket) {
  std::shared_ptr<Waiter> gone;  // destroyed outside the lock
  absl::MutexLock lock(&mutex_);
  auto found = waiting_.find(ticket);
  if (found == waiting_.end()) return false;
  auto queue = queues_.find(found->second.first);
  GANTRY_CHECK(queue != queues_.end(), "a waiting request is in its model's queue");
  auto entry = queue->second.find(found->second.second);
  gone = std::move(entry->second.waiter);
  queue->second.erase(entry);
  if (queue->second.empty()) queues_.erase(queue);
  waiting_.erase(found);
  return true;
}

void Fleet::Release(uint64_t attachment, uint64_t ticket) {
  Deferred deferred;
  {
    absl::MutexLock lock(&mutex_);
    --reserved_;
    auto found = workers_.find(attachment);
    if (found != workers_.end()) {
      Worker& worker = *found->second;
      auto held = worker.held.find(ticket);
      GANTRY_CHECK(held != worker.held.end(), "a reservation is counted at its worker until released");
      worker.own -= held->second.sequences;
      worker.estimate = std::max<int64_t>(0, worker.estimate - held->second.sequences);
      worker.held.erase(held);
      PumpAllLocked(&deferred);
    }
  }
  Run(deferred);
}

std::vector<v1::ModelCard> Fleet::Models() const {
  absl::MutexLock lock(&mutex_);
  std::map<std::string, const v1::ModelCard*> cards;
  for (const auto& [key, worker] : workers_) {
    if (worker->draining) continue;
    for (const v1::ModelCard& card : worker->cards) cards.emplace(card.name(), &card);
  }
  std::vector<v1::ModelCard> out;
  out.reserve(cards.size());
  for (const auto& [name, card] : cards) out.push_back(*card);
  return out;
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> Fleet::WorkerWithBlob(const std::string& sha256) const {
  absl::MutexLock lock(&mutex_);
  for (bool accept_suspects : {false, true}) {
    for (const auto& [key, worker] : workers_) {
      if (worker->suspect && !accept_suspects) continue;
      for (const v1::ModelCard& card : worker->cards) {
        if (card.tokenizer_sha256() == sha256 || card.template_sha256() == sha256) return worker->channel;
      }
    }
  }
  return absl::NotFoundError(absl::StrCat("blob ", absl::BytesToHexString(sha256), ": no attached worker has it"));
}

FleetCounts Fleet::Counts() const {
  absl::MutexLock lock(&mutex_);
  FleetCounts counts;
  for (const auto& [key, worker] : workers_) {
    ++(worker->suspect ? counts.suspect : worker->draining ? counts.draining : counts.ready);
  }
  counts.waiting = waiting_.size();
  counts.reserved = reserved_;
  return counts;
}

void Fleet::Close(const absl::Status& status) {
  Deferred deferred;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = status;
    for (auto& [model, queue] : queues_) {
      for (auto& [key, waiting] : queue) {
        deferred.push_back([waiter = std::move(waiting.waiter), status] { waiter->OnRefused(status); });
      }
    }
    queues_.clear();
    waiting_.clear();
    for (auto& [key, worker] : workers_) {
      deferred.push_back([stream = worker->stream, status] { stream->Close(status); });
    }
  }
  Run(deferred);
}

}  // namespace gantry::router
