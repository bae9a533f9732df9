#include "billing/bench/rpc_load.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "billing/service/billing.h"
#include "engine/base/status_macros.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "services/common/grpc_status.h"
#include "services/common/rpc_test_util.h"

namespace gantry::billing {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr int kReservers = 16;  // calls that may be under way at once
constexpr int kRecordsOfBatchMax = 512;
constexpr auto kCallLimit = std::chrono::minutes(10);

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

struct Call : grpc::ClientContext {
  Call() {
    set_deadline(std::chrono::system_clock::now() + kCallLimit);
    set_wait_for_ready(true);
  }
};

// What several threads find out together.
class Outcome {
 public:
  void Took(double ms) {
    absl::MutexLock lock(&mutex_);
    ms_.push_back(ms);
  }
  void Failed(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    if (failure_.ok()) failure_ = std::move(status);
  }
  absl::StatusOr<Quantiles> Take() {
    absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    if (ms_.empty()) return Quantiles{};
    std::sort(ms_.begin(), ms_.end());
    return Quantiles{ms_[ms_.size() / 2], ms_[ms_.size() * 99 / 100], ms_.back()};
  }

 private:
  absl::Mutex mutex_;
  std::vector<double> ms_;
  absl::Status failure_;
};

// One stream: batches first, first + step, … one after the other. `due(i)`: when batch i may go. Those that are due
// when one can be sent go together, up to what a batch may hold, as spools send them.
template <typename Batch, typename Open, typename Due>
void RunStream(const std::vector<Batch>& batches, size_t first, size_t step, Open open, Due due, Outcome* outcome) {
  Call context;
  auto stream = open(&context);
  for (size_t i = first; i < batches.size();) {
    std::vector<SteadyClock::time_point> starts = {due(i)};
    std::this_thread::sleep_until(starts[0]);
    Batch batch = batches[i];
    const auto now = SteadyClock::now();
    for (i += step;
         i < batches.size() && due(i) < now && batch.records_size() + batches[i].records_size() <= kRecordsOfBatchMax;
         i += step) {
      starts.push_back(due(i));
      batch.mutable_records()->MergeFrom(batches[i].records());
    }
    v1::UsageAck ack;
    if (!stream->Write(batch) || !stream->Read(&ack)) break;
    if (ack.rejected_size() > 0) {
      outcome->Failed(absl::InternalError(ack.rejected(0).reason()));
      context.TryCancel();
      break;
    }
    for (const SteadyClock::time_point start : starts) outcome->Took(SecondsSince(start) * 1000);
  }
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  if (!status.ok()) outcome->Failed(FromGrpcStatus(status));
}

}  // namespace

struct RpcLoad::Impl {
  TestIdentities identities;
  std::unique_ptr<Billing> billing;

  std::unique_ptr<v1::Usage::Stub> Usage(const char* identity) {
    return v1::Usage::NewStub(MakeChannel(billing->address(), identities.Get(identity)));
  }
  template <typename Due>
  absl::StatusOr<Quantiles> Send(const std::vector<v1::UsageBatch>& usage,
                                 const std::vector<v1::WitnessBatch>& witnesses, int streams, Due due) {
    Outcome outcome;
    std::vector<std::thread> threads;
    const auto step = static_cast<size_t>(streams);
    for (size_t s = 0; s < step; ++s) {
      threads.emplace_back([&, s] {
        auto stub = Usage("gateway");
        RunStream(
            usage, s, step, [&](Call* call) { return stub->AppendUsage(call); }, due, &outcome);
      });
      if (witnesses.empty()) continue;
      threads.emplace_back([&, s] {
        auto stub = Usage("worker");
        RunStream(
            witnesses, s, step, [&](Call* call) { return stub->AppendWitness(call); }, due, &outcome);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return outcome.Take();
  }
};

RpcLoad::RpcLoad(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RpcLoad::~RpcLoad() = default;

absl::StatusOr<std::unique_ptr<RpcLoad>> RpcLoad::Start(const std::string& data_dir, double* ready_s) {
  auto impl = std::make_unique<Impl>();
  BillingOptions options;
  options.rpc = impl->identities.ServerOptions("billing");
  options.data_dir = data_dir;
  const auto start = SteadyClock::now();
  GANTRY_ASSIGN_OR_RETURN(impl->billing, Billing::Start(std::move(options), nullptr));
  *ready_s = SecondsSince(start);
  return std::unique_ptr<RpcLoad>(new RpcLoad(std::move(impl)));
}

absl::StatusOr<double> RpcLoad::SendAll(const std::vector<v1::UsageBatch>& usage,
                                        const std::vector<v1::WitnessBatch>& witnesses, int streams) {
  const auto start = SteadyClock::now();
  GANTRY_RETURN_IF_ERROR(impl_->Send(usage, witnesses, streams, [](size_t) { return SteadyClock::now(); }).status());
  return SecondsSince(start);
}

absl::StatusOr<Quantiles> RpcLoad::SendPaced(const std::vector<v1::UsageBatch>& usage,
                                             const std::vector<v1::WitnessBatch>& witnesses, int streams,
                                             double batches_per_s) {
  const auto start = SteadyClock::now() + std::chrono::milliseconds(200);
  return impl_->Send(usage, witnesses, streams, [=](size_t i) {
    return start + std::chrono::microseconds(static_cast<int64_t>(static_cast<double>(i) * 1e6 / batches_per_s));
  });
}

absl::StatusOr<Quantiles> RpcLoad::ReservePaced(const std::vector<v1::ReserveRequest>& requests, double per_s) {
  const auto start = SteadyClock::now() + std::chrono::milliseconds(200);
  const auto channel = MakeChannel(impl_->billing->address(), impl_->identities.Get("gateway"));
  Outcome outcome;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kReservers; ++t) {
    threads.emplace_back([&, t] {
      auto stub = v1::Credit::NewStub(channel);
      for (size_t i = t; i < requests.size(); i += kReservers) {
        const auto due = start + std::chrono::microseconds(static_cast<int64_t>(static_cast<double>(i) * 1e6 / per_s));
        std::this_thread::sleep_until(due);
        Call context;
        v1::HoldResponse response;
        const grpc::Status status = stub->Reserve(&context, requests[i], &response);
        if (!status.ok()) return outcome.Failed(FromGrpcStatus(status));
        outcome.Took(SecondsSince(due) * 1000);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return outcome.Take();
}

}  // namespace gantry::billing
