// The worker's side of gantry.v1.Inference.
#pragma once

#include "gantry/v1/inference.grpc.pb.h"
#include "services/worker/generate_call.h"
#include "services/worker/model_files.h"

namespace gantry::worker {

// `context` and `files` outlive the service.
class InferenceService final : public v1::Inference::CallbackService {
 public:
  InferenceService(const GenerateContext* context, const ModelFiles* files) : context_(context), files_(files) {}

  GenerateReactor* Generate(grpc::CallbackServerContext* rpc) override;
  grpc::ServerWriteReactor<v1::BlobChunk>* GetBlob(grpc::CallbackServerContext* rpc,
                                                   const v1::GetBlobRequest* request) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* rpc, const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

 private:
  const GenerateContext* context_;
  const ModelFiles* files_;
};

}  // namespace gantry::worker
