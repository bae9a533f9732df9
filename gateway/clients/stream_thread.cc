#include "gateway/clients/stream_thread.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "absl/random/random.h"
#include "absl/time/time.h"
#include "services/common/backoff.h"
#include "services/common/log.h"

namespace gantry::gateway {

StreamThread::StreamThread(std::string name, std::function<bool(grpc::ClientContext*)> work)
    : name_(std::move(name)), work_(std::move(work)), thread_([this] { Loop(); }) {}

void StreamThread::MakeLast() {
  std::lock_guard lock(mu_);
  stopping_ = true;
}

void StreamThread::BeginStop() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  wake_.notify_all();
}

void StreamThread::Stop() {
  BeginStop();
  if (thread_.joinable()) thread_.join();
}

void StreamThread::Loop() {
  Backoff backoff(absl::Milliseconds(50), absl::Seconds(1));
  absl::InsecureBitGen random;
  bool said = false;
  for (;;) {
    grpc::ClientContext context;
    // Reconnecting hourly, not all at once, spreads gateways over billing's restarts.
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(absl::Uniform(random, 3'000'000, 3'600'000)));
    {
      std::lock_guard lock(mu_);
      if (stopping_) return;
      context_ = &context;
    }
    const bool useful = work_(&context);
    if (useful) {
      backoff.Reset();
      said = false;
    }
    std::unique_lock lock(mu_);
    context_ = nullptr;
    if (stopping_) return;
    if (!said) {
      said = true;
      lock.unlock();
      Log(LogLevel::kWarning, "stream to billing ended, trying again", {{"stream", name_}});
      lock.lock();
    }
    wake_.wait_for(lock, absl::ToChronoMilliseconds(backoff.Next()), [this] { return stopping_; });
  }
}

}  // namespace gantry::gateway
