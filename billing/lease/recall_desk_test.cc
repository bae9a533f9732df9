#include "billing/lease/recall_desk.h"

#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace gantry::billing {
namespace {

using ::testing::ElementsAre;

class FakeLine final : public GatewayLine {
 public:
  void Send(v1::GatewayOrder order) override { orders.push_back(std::move(order)); }
  void Close(const absl::Status&) override {}
  std::vector<v1::GatewayOrder> orders;
};

class RecallDeskTest : public ::testing::Test {
 protected:
  RecallDeskTest() {
    desk_.Attach(first_, a_);
    desk_.Attach(second_, b_);
  }
  void CallBack(const std::string& name, const std::vector<Lender>& lenders, int64_t party = 7) {
    desk_.CallBack({.kind = CreditScope::kTenant, .no = party}, lenders,
                   [this, name](bool all) { ended_.push_back(absl::StrCat(name, all ? "" : " unanswered")); });
  }

  const Id16 first_ = NewTimeOrderedId(), second_ = NewTimeOrderedId(), stranger_ = NewTimeOrderedId();
  const Id16 tenant_ = NewTimeOrderedId(), key_ = NewTimeOrderedId();
  std::shared_ptr<FakeLine> a_ = std::make_shared<FakeLine>(), b_ = std::make_shared<FakeLine>();
  std::vector<std::string> ended_;
  RecallDesk desk_{{.round_limit = std::chrono::hours(1), .reserve_for = std::chrono::hours(1)}};
};

TEST_F(RecallDeskTest, ARoundEndsWhenEveryLenderHasAnswered) {
  CallBack("wait", {{first_, tenant_, {}}, {second_, tenant_, key_}});
  ASSERT_EQ(a_->orders.size(), 1U);
  const v1::Recall& recall = a_->orders[0].recall();
  EXPECT_EQ(recall.purses(0).party_id(), tenant_.ToBytes());
  EXPECT_EQ(recall.purses(0).key_id(), "");
  EXPECT_EQ(b_->orders[0].recall().purses(0).key_id(), key_.ToBytes());
  desk_.Answered(first_, recall.number());
  EXPECT_TRUE(ended_.empty());
  desk_.Answered(first_, recall.number());
  EXPECT_TRUE(ended_.empty()) << "the other is waited for";
  desk_.Answered(second_, recall.number());
  EXPECT_THAT(ended_, ElementsAre("wait"));
  EXPECT_TRUE(desk_.CalledBack({.kind = CreditScope::kTenant, .no = 7}));
  EXPECT_FALSE(desk_.CalledBack({.kind = CreditScope::kTenant, .no = 8}));
  EXPECT_FALSE(desk_.CalledBack({.kind = CreditScope::kBudget, .no = 7})) << "a budget is another scope";
}

TEST_F(RecallDeskTest, WhoComesDuringARoundWaitsForTheNext) {
  CallBack("early", {{first_, tenant_, {}}});
  CallBack("late", {{first_, tenant_, {}}});
  CallBack("later", {{first_, tenant_, {}}, {second_, tenant_, {}}});
  ASSERT_EQ(a_->orders.size(), 1U);
  desk_.Answered(first_, a_->orders[0].recall().number());
  EXPECT_THAT(ended_, ElementsAre("early"));
  ASSERT_EQ(a_->orders.size(), 2U);
  desk_.Answered(first_, a_->orders[0].recall().number());
  EXPECT_EQ(ended_.size(), 1U) << "an answer to an older round";
  desk_.Answered(first_, a_->orders[1].recall().number());
  desk_.Answered(second_, b_->orders[0].recall().number());
  EXPECT_THAT(ended_, ElementsAre("early", "late", "later"));
}

TEST_F(RecallDeskTest, AGatewayThatIsNotThereLeavesTheQuestionOpen) {
  CallBack("stranger", {{stranger_, tenant_, {}}});
  EXPECT_THAT(ended_, ElementsAre("stranger unanswered"));
  CallBack("left", {{first_, tenant_, {}}}, 8);
  desk_.Detach(first_);
  EXPECT_THAT(ended_, ElementsAre("stranger unanswered", "left unanswered"));
}

TEST(RecallDeskTimes, ASilentGatewayIsWaitedForNoLongerThanTheBound) {
  RecallDesk desk({.round_limit = std::chrono::milliseconds(20), .reserve_for = std::chrono::milliseconds(20)});
  const Id16 gateway = NewTimeOrderedId();
  desk.Attach(gateway, std::make_shared<FakeLine>());
  absl::Notification ended;
  std::atomic<bool> answered{true};
  const CreditScope scope{.kind = CreditScope::kTenant, .no = 7};
  desk.CallBack(scope, {{gateway, {}, {}}}, [&](bool all) {
    answered = all;
    ended.Notify();
  });
  ASSERT_TRUE(ended.WaitForNotificationWithTimeout(absl::Seconds(5)));
  EXPECT_FALSE(answered);
  while (desk.CalledBack(scope)) absl::SleepFor(absl::Milliseconds(5));
}

}  // namespace
}  // namespace gantry::billing
