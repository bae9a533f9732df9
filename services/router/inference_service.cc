#include "services/router/inference_service.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "gantry/v1/inference.grpc.pb.h"
#include "services/common/grpc_status.h"
#include "services/router/fleet.h"
#include "services/router/generate_relay.h"

namespace gantry::router {
namespace {

using grpc::ByteBuffer;

constexpr char kGetBlobMethod[] = "/gantry.v1.Inference/GetBlob";
// A blob is some MiB on a local link.
constexpr std::chrono::seconds kBlobDeadline{60};

// Chunks pass one at a time, as they came.
class BlobRelay final : public std::enable_shared_from_this<BlobRelay> {
 public:
  grpc::ServerWriteReactor<ByteBuffer>* Start(grpc::CallbackServerContext* context, Fleet* fleet,
                                              const ByteBuffer* request) {
    auto* front = new Front(shared_from_this());
    absl::MutexLock lock(&mutex_);
    front_ = front;
    v1::GetBlobRequest parsed;
    request_ = *request;
    ByteBuffer copy = *request;
    grpc::ProtoBufferReader reader(&copy);
    if (!reader.status().ok() || !parsed.ParseFromZeroCopyStream(&reader) || parsed.sha256().size() != 32) {
      front->Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "sha256: expected 32 bytes"));
      return front;
    }
    absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = fleet->WorkerWithBlob(parsed.sha256());
    if (!channel.ok()) {
      front->Finish(ToGrpcStatus(channel.status()));
      return front;
    }
    context_.set_deadline(std::min(context->deadline(), std::chrono::system_clock::now() + kBlobDeadline));
    back_ = new Back(shared_from_this());
    grpc::GenericStub stub(*channel);
    stub.PrepareBidiStreamingCall(&context_, kGetBlobMethod, grpc::StubOptions(), back_);
    back_->AddHold();  // reads also start from the front's reactions
    back_->StartWriteLast(&request_, grpc::WriteOptions());
    back_->StartRead(&chunk_);
    back_->StartCall();
    return front;
  }

 private:
  class Front final : public grpc::ServerWriteReactor<ByteBuffer> {
   public:
    explicit Front(std::shared_ptr<BlobRelay> relay) : relay_(std::move(relay)) {}
    void OnWriteDone(bool ok) override { relay_->FrontWriteDone(ok); }
    void OnCancel() override { relay_->Cancel(); }
    void OnDone() override { delete this; }

   private:
    const std::shared_ptr<BlobRelay> relay_;
  };

  class Back final : public grpc::ClientBidiReactor<ByteBuffer, ByteBuffer> {
   public:
    explicit Back(std::shared_ptr<BlobRelay> relay) : relay_(std::move(relay)) {}
    void OnReadDone(bool ok) override { relay_->BackReadDone(ok); }
    void OnDone(const grpc::Status& status) override {
      relay_->BackDone(status);
      delete this;
    }

   private:
    const std::shared_ptr<BlobRelay> relay_;
  };

  void BackReadDone(bool ok) {
    absl::MutexLock lock(&mutex_);
    if (ok) {
      front_->StartWrite(&chunk_);
    } else {
      back_->RemoveHold();
    }
  }

  void FrontWriteDone(bool ok) {
    absl::MutexLock lock(&mutex_);
    if (!ok) context_.TryCancel();
    back_->StartRead(&chunk_);
  }

  void Cancel() {
    absl::MutexLock lock(&mutex_);
    if (back_ != nullptr) context_.TryCancel();
  }

  // No write is outstanding: the last read, which failed, was started when the last write had come back.
  void BackDone(const grpc::Status& status) {
    absl::MutexLock lock(&mutex_);
    back_ = nullptr;
    front_->Finish(status);
  }

  absl::Mutex mutex_;
  Front* front_ ABSL_GUARDED_BY(mutex_) = nullptr;
  Back* back_ ABSL_GUARDED_BY(mutex_) = nullptr;
  grpc::ClientContext context_;
  ByteBuffer request_, chunk_;  // owned by the operation in flight
};

using Base = v1::Inference::WithRawCallbackMethod_Generate<
    v1::Inference::WithRawCallbackMethod_GetBlob<v1::Inference::WithCallbackMethod_ListModels<v1::Inference::Service>>>;

class InferenceService final : public Base {
 public:
  InferenceService(Fleet* fleet, RouterMetrics* metrics, absl::Duration (*now)(), std::function<bool()> admits)
      : fleet_(fleet), metrics_(metrics), now_(now), admits_(std::move(admits)) {}

  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* Generate(grpc::CallbackServerContext* context) override {
    if (!admits_()) {
      struct Refuse final : grpc::ServerBidiReactor<ByteBuffer, ByteBuffer> {
        Refuse() { Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "router is draining; try another or again")); }
        void OnDone() override { delete this; }
      };
      return new Refuse;
    }
    return NewGenerateRelay(context, fleet_, metrics_, now_);
  }

  grpc::ServerWriteReactor<ByteBuffer>* GetBlob(grpc::CallbackServerContext* context,
                                                const ByteBuffer* request) override {
    return std::make_shared<BlobRelay>()->Start(context, fleet_, request);
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    for (v1::ModelCard& card : fleet_->Models()) *response->add_models() = std::move(card);
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  Fleet* const fleet_;
  RouterMetrics* const metrics_;
  absl::Duration (*const now_)();
  const std::function<bool()> admits_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInferenceService(Fleet* fleet, RouterMetrics* metrics, absl::Duration (*now)(),
                                                    std::function<bool()> admits) {
  return std::make_unique<InferenceService>(fleet, metrics, now, std::move(admits));
}

}  // namespace gantry::router
