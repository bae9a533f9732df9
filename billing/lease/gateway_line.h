// A gateway that is attached, as those see it who send it orders.
#pragma once

#include "absl/status/status.h"
#include "gantry/v1/lease.pb.h"

namespace gantry::billing {

// Thread-safe; neither call blocks or calls back. What is sent after the stream has ended is dropped.
class GatewayLine {
 public:
  virtual ~GatewayLine() = default;
  virtual void Send(v1::GatewayOrder order) = 0;
  virtual void Close(const absl::Status& status) = 0;
};

}  // namespace gantry::billing
