// The gateway's line to billing over which what was lent is called back and permits are leased (proto Leases). Comes
// back by itself after billing was away.
#pragma once

#include <functional>
#include <memory>

#include "gantry/v1/lease.pb.h"
#include "services/common/ids.h"

namespace grpc {
class Channel;
}  // namespace grpc

namespace gantry::gateway {

class LeaseLine {
 public:
  struct Handlers {
    std::function<void(const v1::GatewayOrder&)> order;  // one at a time
    std::function<void()> broken;                        // after the last order of a stream
  };
  virtual ~LeaseLine() = default;
  // Attaches, again and again until Stop, which waits for the handlers to have ended. Each once.
  virtual void Start(Handlers handlers) = 0;
  virtual void Stop() = 0;
  // Any thread; never blocks. False: there is no stream now, nothing was sent. What was accepted is sent in order, or
  // lost with the stream.
  virtual bool Send(const v1::GatewayReport& report) = 0;
  // Says good-bye: this gateway serves nothing any more. Waits for the stream to end, which is not opened again.
  virtual void Leave() = 0;
};

std::shared_ptr<LeaseLine> MakeLeaseLine(const std::shared_ptr<grpc::Channel>& billing, const Id16& gateway_id,
                                         uint64_t gateway_epoch);

}  // namespace gantry::gateway
