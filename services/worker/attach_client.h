// Keeps one Fleet.Attach stream to a router open: hello, snapshot, then deltas when something changed and at least
// every beat. Dials again with back-off when the stream breaks. One thread writes, one reads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "engine/engine.h"
#include "gantry/v1/fleet.pb.h"
#include "services/common/rpc.h"

namespace gantry::worker {

struct AttachOptions {
  std::string router;  // address
  Identity identity;
  v1::WorkerHello hello;  // id, epoch, address, models; protocol and beat are filled in
};

class AttachClient {
 public:
  AttachClient(AttachOptions options, engine::Engine* engine);
  ~AttachClient();

  bool attached() const { return attached_.load(); }
  // Tells the router to send nothing new.
  void SetDraining();

 private:
  void Loop();
  void Serve(void* stream);
  void FillLoad(v1::WorkerLoad* load);

  const AttachOptions options_;
  engine::Engine* const engine_;
  std::atomic<bool> attached_{false}, draining_{false}, snapshot_wanted_{false};
  int64_t last_round_ = 0;
  int64_t last_drafted_ = 0, last_accepted_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  void* context_ = nullptr;  // grpc::ClientContext of the running stream
  std::thread thread_;
};

}  // namespace gantry::worker
