#include "services/common/latency.h"

#include <gtest/gtest.h>
#include <sys/utsname.h>

#include <cstdio>
#include <thread>

namespace gantry {
namespace {

// Turns have a length of their own from Linux 6.12 on.
bool KernelKnowsTurns() {
  utsname name{};
  int major = 0, minor = 0;
  return uname(&name) == 0 && std::sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
         (major > 6 || (major == 6 && minor >= 12));
}

TEST(ShortTurnsTest, HoldForTheThreadAndThoseItStartsAndForNobodyElse) {
  const int before_us = OwnTurnUs();
  int asked_us = 0, started_us = 0;
  std::thread([&] {
    EXPECT_TRUE(AskForShortTurns());
    asked_us = OwnTurnUs();
    std::thread([&] { started_us = OwnTurnUs(); }).join();
  }).join();
  EXPECT_EQ(OwnTurnUs(), before_us);
  const int expected_us = KernelKnowsTurns() ? kShortTurnUs : before_us;
  EXPECT_EQ(asked_us, expected_us);
  EXPECT_EQ(started_us, expected_us);
}

}  // namespace
}  // namespace gantry
