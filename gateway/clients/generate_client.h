// One Generate stream to the router, for a coroutine: what arrives is queued (bounded, then the wire waits), what is
// sent is sent in order.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gantry/v1/inference.pb.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace gantry::gateway {

class GenerateStream {
 public:
  virtual ~GenerateStream() = default;  // cancels what still runs
  // The next message, or nothing yet. Any thread.
  virtual std::optional<v1::GenerateServerMessage> Next() = 0;
  // The end of the stream, once it is there and Next has given everything. OK after a regular end.
  virtual std::optional<absl::Status> Ended() = 0;
  // Queued when the stream is busy; dropped once it has ended.
  virtual void Send(v1::GenerateClientMessage message) = 0;
};

class GenerateClient {
 public:
  // Ends what still runs; no `wake` is called after it.
  virtual ~GenerateClient() = default;
  // `wake` is called, from any thread, whenever Next or Ended may have something new. It must not block.
  virtual std::unique_ptr<GenerateStream> Start(v1::GenerateStart start, std::function<void()> wake) = 0;
};

// Over gRPC. The stream's own deadline is the request's plus a little, so that the worker ends it first.
std::unique_ptr<GenerateClient> MakeGenerateClient(std::shared_ptr<grpc::Channel> router);

}  // namespace gantry::gateway
