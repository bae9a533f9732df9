#include "gateway/clients/lease_line.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "gantry/v1/lease.grpc.pb.h"
#include "gateway/clients/stream_thread.h"

namespace gantry::gateway {
namespace {

class Line final : public LeaseLine {
 public:
  Line(const std::shared_ptr<grpc::Channel>& channel, const Id16& gateway_id, uint64_t epoch)
      : stub_(v1::Leases::NewStub(channel)) {
    hello_.mutable_hello()->set_gateway_id(gateway_id.ToBytes());
    hello_.mutable_hello()->set_gateway_epoch(epoch);
  }
  ~Line() override { Stop(); }

  void Start(Handlers handlers) override {
    handlers_ = std::move(handlers);
    thread_ = std::make_unique<StreamThread>("leases", [this](grpc::ClientContext* context) { return Run(context); });
  }
  void Stop() override {
    if (thread_ != nullptr) thread_->Stop();
  }

  // Never waits for billing to read: a request that needs permits shares its thread with others' tokens.
  bool Send(const v1::GatewayReport& report) override {
    std::lock_guard lock(mu_);
    if (!open_ || leaving_ || reports_.size() >= kReportLimit) return false;
    reports_.push_back(report);
    changed_.notify_all();
    return true;
  }

  void Leave() override {
    v1::GatewayReport leaving;
    leaving.mutable_leaving();
    thread_->MakeLast();
    if (!Send(leaving)) return;
    std::unique_lock lock(mu_);
    leaving_ = true;
    changed_.notify_all();
    // Billing ends the stream when it has read that.
    changed_.wait_for(lock, std::chrono::seconds(1), [this] { return !open_; });
  }

 private:
  using Stream = grpc::ClientReaderWriter<v1::GatewayReport, v1::GatewayOrder>;
  static constexpr size_t kReportLimit = 10'000;

  bool Run(grpc::ClientContext* context) {
    const std::unique_ptr<Stream> stream = stub_->Attach(context);
    {
      std::lock_guard lock(mu_);
      open_ = true;
      reports_.assign(1, hello_);
    }
    std::thread writer([this, &stream] { Write(stream.get()); });
    v1::GatewayOrder order;
    bool any = false;
    while (stream->Read(&order)) {
      any = true;
      handlers_.order(order);
    }
    {
      std::lock_guard lock(mu_);
      open_ = false;
      reports_.clear();
    }
    changed_.notify_all();
    handlers_.broken();
    context->TryCancel();  // a write that waits for its reader ends
    writer.join();
    stream->Finish();
    return any;
  }

  void Write(Stream* stream) {
    std::unique_lock lock(mu_);
    for (;;) {
      changed_.wait(lock, [this] { return !open_ || !reports_.empty() || leaving_; });
      if (!open_) return;
      if (reports_.empty()) break;  // good-bye has been said
      const v1::GatewayReport report = std::move(reports_.front());
      reports_.pop_front();
      lock.unlock();
      const bool written = stream->Write(report);
      lock.lock();
      if (!written) return;
    }
    lock.unlock();
    stream->WritesDone();
  }

  const std::unique_ptr<v1::Leases::Stub> stub_;
  Handlers handlers_;
  v1::GatewayReport hello_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<v1::GatewayReport> reports_;  // guarded by mu_, as what follows
  bool open_ = false;
  bool leaving_ = false;
  std::unique_ptr<StreamThread> thread_;
};

}  // namespace

std::shared_ptr<LeaseLine> MakeLeaseLine(const std::shared_ptr<grpc::Channel>& billing, const Id16& gateway_id,
                                         uint64_t gateway_epoch) {
  return std::make_shared<Line>(billing, gateway_id, gateway_epoch);
}

}  // namespace gantry::gateway
