#include "gateway/clients/lease_line.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
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

  bool Send(const v1::GatewayReport& report) override {
    std::lock_guard lock(mu_);
    return stream_ != nullptr && stream_->Write(report);
  }

  void Leave() override {
    v1::GatewayReport leaving;
    leaving.mutable_leaving();
    thread_->MakeLast();
    {
      std::lock_guard lock(mu_);
      if (stream_ == nullptr || !stream_->Write(leaving)) return;
      // Billing ends the stream when it has read that; until then nothing may cancel it.
      stream_->WritesDone();
    }
    std::unique_lock lock(mu_);
    ended_.wait_for(lock, std::chrono::seconds(1), [this] { return stream_ == nullptr; });
  }

 private:
  bool Run(grpc::ClientContext* context) {
    auto stream = stub_->Attach(context);
    bool useful = stream->Write(hello_);
    if (useful) {
      std::lock_guard lock(mu_);
      stream_ = stream.get();
    }
    v1::GatewayOrder order;
    bool any = false;
    while (useful && stream->Read(&order)) {
      any = true;
      handlers_.order(order);
    }
    {
      std::lock_guard lock(mu_);
      stream_ = nullptr;
    }
    ended_.notify_all();
    handlers_.broken();
    context->TryCancel();
    stream->Finish();
    return any;
  }

  const std::unique_ptr<v1::Leases::Stub> stub_;
  Handlers handlers_;
  v1::GatewayReport hello_;
  std::mutex mu_;
  std::condition_variable ended_;
  grpc::ClientReaderWriter<v1::GatewayReport, v1::GatewayOrder>* stream_ = nullptr;  // guarded by mu_
  std::unique_ptr<StreamThread> thread_;
};

}  // namespace

std::shared_ptr<LeaseLine> MakeLeaseLine(const std::shared_ptr<grpc::Channel>& billing, const Id16& gateway_id,
                                         uint64_t gateway_epoch) {
  return std::make_shared<Line>(billing, gateway_id, gateway_epoch);
}

}  // namespace gantry::gateway
