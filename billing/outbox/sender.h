// What a try to deliver one message came to.
#pragma once

#include "absl/status/status.h"

namespace gantry::billing {

struct SendResult {
  absl::Status status;     // OK: the other side has taken it
  bool permanent = false;  // another try would end the same way
};

}  // namespace gantry::billing
