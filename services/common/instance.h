// Who a process is across its restarts: an id that stays and an epoch that grows, both kept in its state directory.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "services/common/ids.h"

namespace gantry {

struct Instance {
  Id16 id;             // made at the first start
  uint64_t epoch = 0;  // larger at every start, also when the clock has gone back: microseconds since 1970, or more
};

// Makes `state_dir` (0700) when it is not there; writes `id` and `epoch` in it. Call once a start. PERMISSION_DENIED
// and DATA_LOSS name the file.
absl::StatusOr<Instance> LoadInstance(const std::string& state_dir);

}  // namespace gantry
