#include "services/worker/delayed_calls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"

namespace gantry::worker {
namespace {

using ::testing::ElementsAre;

TEST(DelayedCallsTest, RunInTheOrderOfTheirTimes) {
  absl::Mutex mutex;
  std::vector<int> order;
  absl::Notification last;
  DelayedCalls calls;
  const auto note = [&](int which) {
    absl::MutexLock lock(&mutex);
    order.push_back(which);
  };
  calls.After(absl::Milliseconds(60), [&] {
    note(3);
    last.Notify();
  });
  calls.After(absl::Milliseconds(20), [&] { note(1); });
  calls.After(absl::Milliseconds(40), [&] { note(2); });
  ASSERT_TRUE(last.WaitForNotificationWithTimeout(absl::Seconds(10)));
  absl::MutexLock lock(&mutex);
  EXPECT_THAT(order, ElementsAre(1, 2, 3));
}

TEST(DelayedCallsTest, NoneRunsBeforeItsTime) {
  absl::Notification ran;
  DelayedCalls calls;
  const absl::Time asked = absl::Now();
  calls.After(absl::Milliseconds(30), [&] { ran.Notify(); });
  ASSERT_TRUE(ran.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_GE(absl::Now() - asked, absl::Milliseconds(30));
}

TEST(DelayedCallsTest, WhatIsDueAtTheEndIsDropped) {
  bool ran = false;
  {
    DelayedCalls calls;
    calls.After(absl::Hours(1), [&] { ran = true; });
  }
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace gantry::worker
