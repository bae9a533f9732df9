#include "services/worker/inference_service.h"

#include <algorithm>

namespace gantry::worker {
namespace {

constexpr size_t kChunkBytes = 1 << 20;

class BlobWriter final : public grpc::ServerWriteReactor<v1::BlobChunk> {
 public:
  explicit BlobWriter(const std::string* blob) : blob_(blob) {
    if (blob_ == nullptr) {
      Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "no file of the served model has this hash"));
    } else {
      Next();
    }
  }
  void OnWriteDone(bool ok) override {
    if (ok) {
      Next();
    } else {
      Finish(grpc::Status::CANCELLED);
    }
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (at_ >= blob_->size()) {
      Finish(grpc::Status::OK);
      return;
    }
    const size_t n = std::min(kChunkBytes, blob_->size() - at_);
    chunk_.set_data(blob_->data() + at_, n);
    at_ += n;
    StartWrite(&chunk_);
  }
  const std::string* blob_;
  size_t at_ = 0;
  v1::BlobChunk chunk_;
};

}  // namespace

GenerateReactor* InferenceService::Generate(grpc::CallbackServerContext*) {
  return StartGenerateCall(context_);
}

grpc::ServerWriteReactor<v1::BlobChunk>* InferenceService::GetBlob(grpc::CallbackServerContext*,
                                                                   const v1::GetBlobRequest* request) {
  const auto found = files_->blobs.find(request->sha256());
  return new BlobWriter(found == files_->blobs.end() ? nullptr : &found->second);
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* rpc, const v1::ListModelsRequest*,
                                                       v1::ListModelsResponse* response) {
  *response->add_models() = files_->card;
  grpc::ServerUnaryReactor* reactor = rpc->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace gantry::worker
