#include "services/worker/attach_client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gantry/v1/fleet.grpc.pb.h"
#include "services/common/backoff.h"
#include "services/common/lifecycle.h"
#include "services/common/log.h"

namespace gantry::worker {
namespace {

using Stream = grpc::ClientReaderWriter<v1::WorkerReport, v1::RouterOrder>;

constexpr uint32_t kProtocol = 1;
constexpr absl::Duration kBeat = absl::Milliseconds(200);
// How often to look for changes; a report leaves only when there is one, or when a beat is due.
constexpr absl::Duration kLook = absl::Milliseconds(10);
constexpr int kStepsMax = 64;

}  // namespace

AttachClient::AttachClient(AttachOptions options, engine::Engine* engine)
    : options_(std::move(options)), engine_(engine) {
  thread_ = std::thread([this] { Loop(); });
}

AttachClient::~AttachClient() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    if (context_ != nullptr) static_cast<grpc::ClientContext*>(context_)->TryCancel();
  }
  changed_.notify_all();
  thread_.join();
}

void AttachClient::SetDraining() {
  draining_ = true;
  changed_.notify_all();
}

void AttachClient::Loop() {
  const auto channel = MakeChannel(options_.router, options_.identity);
  const auto stub = v1::Fleet::NewStub(channel);
  Backoff backoff(absl::Milliseconds(50), absl::Seconds(1));
  std::string last_error;
  while (true) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
    {
      std::lock_guard lock(mutex_);
      if (stopping_) return;
      context_ = &context;
    }
    const auto stream = stub->Attach(&context);
    Serve(stream.get());
    context.TryCancel();
    const grpc::Status status = stream->Finish();
    if (attached_.exchange(false)) backoff.Reset();
    std::unique_lock lock(mutex_);
    context_ = nullptr;
    if (stopping_) return;
    // One line for each new reason, not for each try.
    if (status.error_message() != last_error) {
      last_error = status.error_message();
      Log(LogLevel::kWarning, "not attached to the router; trying again", {{"error", last_error}});
    }
    changed_.wait_for(lock, absl::ToChronoMilliseconds(backoff.Next()), [this] { return stopping_; });
  }
}

void AttachClient::Serve(void* opaque) {
  auto* stream = static_cast<Stream*>(opaque);
  uint64_t sequence = 0;
  v1::WorkerReport report;
  report.set_sequence(++sequence);
  *report.mutable_hello() = options_.hello;
  report.mutable_hello()->mutable_protocol()->set_min(kProtocol);
  report.mutable_hello()->mutable_protocol()->set_max(kProtocol);
  report.mutable_hello()->set_beat_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(kBeat)));
  report.mutable_hello()->set_version(BuildVersion());
  if (!stream->Write(report)) return;

  std::atomic<bool> broken{false};
  std::thread reader([&] {
    v1::RouterOrder order;
    while (stream->Read(&order)) {
      if (order.has_welcome()) {
        attached_ = true;
        Log(LogLevel::kInfo, "attached to the router", {{"lease_ms", absl::StrCat(order.welcome().lease_ms())}});
      }
      if (order.has_snapshot_request()) snapshot_wanted_ = true;
      if (order.has_drain()) draining_ = true;
    }
    broken = true;
    changed_.notify_all();
  });
  snapshot_wanted_ = true;
  std::string last_state;
  absl::Time last_sent = absl::InfinitePast();
  while (!broken) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, absl::ToChronoMilliseconds(kLook), [&] { return stopping_ || broken.load(); });
      if (stopping_ || broken) break;
    }
    v1::WorkerState state;
    FillLoad(state.mutable_load());
    state.set_draining(draining_);
    const std::string bytes = state.SerializeAsString();
    const bool snapshot = snapshot_wanted_.exchange(false);
    if (!snapshot && bytes == last_state && absl::Now() - last_sent < kBeat - kLook) continue;
    report.Clear();
    report.set_sequence(++sequence);
    *(snapshot ? report.mutable_snapshot() : report.mutable_delta()) = state;
    if (!stream->Write(report)) break;
    last_state = bytes;
    last_sent = absl::Now();
  }
  {
    // The reader waits in Read; the cancel wakes it.
    std::lock_guard lock(mutex_);
    if (context_ != nullptr) static_cast<grpc::ClientContext*>(context_)->TryCancel();
  }
  reader.join();
}

void AttachClient::FillLoad(v1::WorkerLoad* load) {
  const engine::EngineStats stats = engine_->Stats();
  load->set_max_sequences(static_cast<uint32_t>(engine_->card().max_sequences));
  load->set_running(static_cast<uint32_t>(stats.running));
  load->set_queued(static_cast<uint32_t>(stats.queued));
  load->set_queued_prompt_tokens(static_cast<uint64_t>(stats.queued_prompt_tokens));
  load->set_kv_pages_free(static_cast<uint64_t>(stats.kv_pages_free));
  load->set_kv_pages_used(static_cast<uint64_t>(stats.kv_pages_used));
  load->set_rounds(static_cast<uint64_t>(stats.rounds));
  load->set_last_round_ms(stats.last_round_ms);
  const int64_t drafted = stats.totals.drafted - last_drafted_, accepted = stats.totals.accepted - last_accepted_;
  load->set_acceptance(drafted > 0 ? static_cast<double>(accepted) / static_cast<double>(drafted) : 0);
  if (stats.rounds == last_round_) return;
  last_drafted_ = stats.totals.drafted;
  last_accepted_ = stats.totals.accepted;
  for (const engine::StepRecord& record : engine_->StepRecords()) {
    if (record.round <= last_round_ || load->steps_size() == kStepsMax) continue;
    v1::StepCost* step = load->add_steps();
    step->set_rows_prefill(static_cast<uint32_t>(record.rows_prefill));
    step->set_rows_decode(static_cast<uint32_t>(record.rows_decode));
    step->set_context_tokens(static_cast<uint64_t>(record.context_tokens));
    step->set_milliseconds(record.milliseconds);
  }
  last_round_ = stats.rounds;
}

}  // namespace gantry::worker
