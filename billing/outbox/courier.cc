#include "billing/outbox/courier.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "services/common/log.h"

namespace gantry::billing {
namespace {

constexpr absl::Duration kPauseMax = absl::Minutes(1);

}  // namespace

absl::Duration RetryWait(const RetryPolicy& policy, int64_t failures, double jitter) {
  absl::Duration wait = policy.first;
  for (int64_t i = 1; i < failures && wait < policy.longest; ++i) wait *= 2;
  return std::min(wait, policy.longest) * jitter;
}

Courier::Courier(Options options) : options_(std::move(options)) {
  threads_.emplace_back([this] { LookLoop(); });
  for (int i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { SendLoop(); });
}

Courier::~Courier() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  stop_.Stop();
  for (std::thread& thread : threads_) thread.join();
}

void Courier::Wake() {
  absl::MutexLock lock(&mutex_);
  woken_ = true;
}

void Courier::LookLoop() {
  for (;;) {
    // What is read now of an endpoint that is busy may be done before we look at it: such a row is not sent twice.
    absl::flat_hash_set<Id16> busy_before;
    {
      absl::MutexLock lock(&mutex_);
      const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || woken_; };
      mutex_.AwaitWithTimeout(absl::Condition(&wanted), options_.look_every);
      if (stopping_) return;
      woken_ = false;
      busy_before = busy_;
    }
    std::vector<Delivery> due;
    const absl::Status looked = options_.store->ReadAndWait([&](Database& db) {
      due = DueDeliveries(db, options_.clock());
      return absl::OkStatus();
    });
    if (!looked.ok()) {
      Log(LogLevel::kError, "the outbox cannot be read", {{"error", looked.message()}});
      continue;
    }
    absl::MutexLock lock(&mutex_);
    for (Delivery& delivery : due) {
      const Id16 endpoint = delivery.endpoint.endpoint_id;
      const auto paused = paused_.find(endpoint);
      if (paused != paused_.end() && absl::Now() < paused->second) continue;
      if (busy_before.contains(endpoint)) continue;
      if (busy_.insert(endpoint).second) ready_.push_back(std::move(delivery));
    }
  }
}

void Courier::SendLoop() {
  for (;;) {
    Delivery delivery;
    {
      absl::MutexLock lock(&mutex_);
      const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !ready_.empty(); };
      mutex_.Await(absl::Condition(&wanted));
      if (stopping_) return;
      delivery = std::move(ready_.front());
      ready_.pop_front();
    }
    const SendResult result = options_.send(delivery, &stop_);
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_ && !result.status.ok()) return;  // broken off, not failed
    }
    Finish(delivery, result);
  }
}

void Courier::Finish(const Delivery& delivery, const SendResult& result) {
  const OutboxRow& row = delivery.row;
  const int64_t now_us = options_.clock();
  const int64_t failures = row.attempts + 1;
  absl::Duration wait;
  {
    absl::MutexLock lock(&mutex_);
    wait = RetryWait(options_.retry, failures, absl::Uniform(random_, 0.5, 1.0));
  }
  const bool parked =
      !result.status.ok() && (result.permanent || failures >= options_.retry.attempts_max ||
                              now_us - row.since_us >= absl::ToInt64Microseconds(options_.retry.age_max));
  const absl::Status marked = options_.store->WriteAndWait([&](Database& db) {
    if (result.status.ok()) {
      MarkDelivered(db, row.seq, now_us);
    } else if (parked) {
      MarkParked(db, row.seq, std::string(result.status.message()), now_us);
    } else {
      MarkFailed(db, row.seq, std::string(result.status.message()), now_us + absl::ToInt64Microseconds(wait));
    }
    return absl::OkStatus();
  });
  if (!marked.ok()) {
    // Sent, perhaps, and not marked: it comes again.
    Log(LogLevel::kError, "the outbox cannot be written", {{"error", marked.message()}});
  }
  if (parked) {
    Log(LogLevel::kError, "a message was given up",
        {{"message", row.seq}, {"topic", row.topic}, {"error", result.status.message()}});
  }
  if (options_.on_try) options_.on_try(delivery, result.status, parked);
  absl::MutexLock lock(&mutex_);
  const Id16 endpoint = delivery.endpoint.endpoint_id;
  if (result.status.ok() && marked.ok()) {
    paused_.erase(endpoint);
    woken_ = true;  // for its next one
  } else {
    // Also when it cannot be marked: the next try must not follow at once.
    paused_[endpoint] = absl::Now() + std::min(wait, kPauseMax);
  }
  busy_.erase(endpoint);
}

}  // namespace gantry::billing
