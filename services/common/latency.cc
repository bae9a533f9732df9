#include "services/common/latency.h"

#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace gantry {
namespace {

bool ReadAttributes(sched_attr* attributes) {
  return syscall(SYS_sched_getattr, 0, attributes, sizeof(*attributes), 0) == 0;
}

}  // namespace

bool AskForShortTurns() {
  // Policy and nice value stay as they are.
  sched_attr attributes{};
  if (!ReadAttributes(&attributes)) return false;
  attributes.sched_runtime = uint64_t{kShortTurnUs} * 1000;
  return syscall(SYS_sched_setattr, 0, &attributes, 0) == 0;
}

int OwnTurnUs() {
  sched_attr attributes{};
  return ReadAttributes(&attributes) ? static_cast<int>(attributes.sched_runtime / 1000) : 0;
}

}  // namespace gantry
