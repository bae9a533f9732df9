// A worker for tests: attaches to a router and answers Generate by a script instead of a model.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gantry/v1/fleet.grpc.pb.h"
#include "gantry/v1/inference.grpc.pb.h"
#include "services/common/rpc_test_util.h"

namespace gantry::router {

struct FakeWorkerOptions {
  std::string name = "worker";  // socket name; one per worker
  int number = 1;               // last byte of its id
  uint64_t epoch = 1;
  std::string model = "demo";
  uint32_t max_sequences = 4;
  uint32_t beat_ms = 100;
  int tokens = 8;                                        // frames of one token before the finish
  absl::Duration token_interval = absl::ZeroDuration();  // between frames
  bool wait_for_cancel = false;                          // after the tokens: wait for cancel, half-close or breakage
  size_t frame_bytes = 4;                                // size of the ids of each frame
  std::string blob = "tokenizer bytes";                  // what the model's tokenizer hash names
};

class FakeWorker final : public v1::Inference::CallbackService {
 public:
  FakeWorker(const TestIdentities& identities, const std::string& router_address, FakeWorkerOptions options);
  ~FakeWorker() override;

  // Blocks until the router has welcomed it and knows its load.
  void WaitAttached();
  // Stops reporting, keeps the stream open: a process that hangs.
  void Freeze() { frozen_ = true; }
  // Leaves out one sequence number.
  void SkipSequence() { skip_ = true; }
  void SetDraining() { draining_ = true; }
  // Breaks everything at once, as a kill would.
  void Kill();

  // What happened at this worker, in order: "start", "raise 0 20", "ack 0 3", "cancel", "half-close", "broken",
  // "snapshot request 5", "detached: …".
  std::vector<std::string> Events() const;
  // Blocks up to `timeout` for an event with this beginning; false when none came.
  bool WaitForEvent(const std::string& beginning, absl::Duration timeout) const;
  v1::GenerateStart LastStart() const;
  int64_t frames_written() const { return frames_written_; }
  std::string TokenizerHash() const;

  grpc::ServerBidiReactor<v1::GenerateClientMessage, v1::GenerateServerMessage>* Generate(
      grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<v1::BlobChunk>* GetBlob(grpc::CallbackServerContext* context,
                                                   const v1::GetBlobRequest* request) override;

 private:
  class Call;
  void Record(const std::string& event);
  void AttachLoop();

  const FakeWorkerOptions options_;
  std::unique_ptr<RpcServer> server_;
  std::shared_ptr<grpc::Channel> router_;
  std::unique_ptr<grpc::ClientContext> attach_context_;
  std::thread attach_thread_;
  std::atomic<bool> frozen_{false}, skip_{false}, draining_{false}, stop_{false}, attached_{false};
  std::atomic<int> running_{0};
  std::atomic<int64_t> frames_written_{0};
  mutable absl::Mutex mutex_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mutex_);
  v1::GenerateStart last_start_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Call>> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gantry::router
