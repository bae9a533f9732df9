#include "billing/lease/window_desk.h"

#include <algorithm>
#include <string>

#include "gtest/gtest.h"

namespace gantry::billing {
namespace {

// A gateway as the desk sees it: it reports what the test says, and keeps the last of each order.
class FakeGateway final : public GatewayLine {
 public:
  explicit FakeGateway(WindowDesk* desk) : desk_(desk) {}
  void Send(v1::GatewayOrder order) override {
    if (order.has_mode()) mode = order.mode();
    if (order.has_permit_answer()) answers.push_back(order.permit_answer());
    if (order.has_permit_recall()) recalls.push_back(order.permit_recall());
  }
  void Close(const absl::Status&) override {}

  void Attach(bool fresh = false) {
    desk_->Attach(id, fresh, std::shared_ptr<GatewayLine>(this, [](GatewayLine*) {}));
  }
  void Report(std::vector<v1::KeyWindow> windows = {}) {
    v1::WindowReport report;
    report.set_mode_number(mode.number());
    for (v1::KeyWindow& window : windows) *report.add_windows() = std::move(window);
    desk_->Report(id, report);
  }
  // Asks for one request of `tokens`, under the limits 8 requests, 8,000 tokens, 4 at once.
  void Ask(const Id16& key, uint64_t requests, uint64_t tokens, uint32_t slots) {
    v1::PermitRequest request;
    request.set_number(++number_);
    request.set_key_id(key.ToBytes());
    request.set_requests(requests);
    request.set_requests_limit(8);
    request.set_tokens(tokens);
    request.set_tokens_limit(8000);
    request.set_slots(slots);
    request.set_slots_limit(4);
    desk_->Ask(id, request);
  }
  void Return(const Id16& key, uint64_t requests, uint64_t tokens, uint32_t slots) {
    v1::PermitReturn back;
    if (!recalls.empty()) back.set_number(recalls.back().number());
    back.set_key_id(key.ToBytes());
    back.set_requests(requests);
    back.set_tokens(tokens);
    back.set_slots(slots);
    if (!answers.empty()) {
      back.set_requests_window(answers.back().requests_window());
      back.set_tokens_window(answers.back().tokens_window());
    }
    desk_->Return(id, back);
  }
  v1::WindowLimit LastRefusal() const {
    return answers.empty() ? v1::WINDOW_LIMIT_UNSPECIFIED : answers.back().refused();
  }

  const Id16 id = NewTimeOrderedId();
  v1::WindowMode mode;
  std::vector<v1::PermitAnswer> answers;
  std::vector<v1::PermitRecall> recalls;

 private:
  WindowDesk* const desk_;
  uint64_t number_ = 0;
};

class WindowDeskTest : public ::testing::Test {
 protected:
  WindowDesk::Options Options() {
    WindowDesk::Options options;
    options.monotonic = [this] { return now_; };
    return options;
  }
  static v1::KeyWindow Counted(const Id16& key, uint64_t requests, uint64_t age_ms, uint32_t running = 0) {
    v1::KeyWindow window;
    window.set_key_id(key.ToBytes());
    window.set_requests(requests);
    window.set_requests_age_ms(age_ms);
    window.set_slots(running);
    return window;
  }
  void Both() {
    a_.Attach();
    b_.Attach();
    a_.Report();
    b_.Report();
  }

  absl::Duration now_ = absl::Hours(9);
  WindowDesk desk_{Options()};
  FakeGateway a_{&desk_}, b_{&desk_};
  const Id16 key_ = NewTimeOrderedId();
};

TEST_F(WindowDeskTest, TheOnlyGatewayCountsAlone) {
  a_.Attach();
  EXPECT_TRUE(a_.mode.alone());
  EXPECT_TRUE(desk_.IsAlone(a_.id));
}

TEST_F(WindowDeskTest, WhatOneHasCountedAloneCountsForBoth) {
  a_.Attach();
  b_.Attach();
  EXPECT_FALSE(a_.mode.alone());
  EXPECT_FALSE(b_.mode.alone());
  b_.Report();
  b_.Ask(key_, 1, 0, 0);
  EXPECT_TRUE(b_.answers.empty()) << "what the other has counted is not known yet";
  a_.Report({Counted(key_, 7, 20'000)});
  ASSERT_EQ(b_.answers.size(), 1U);
  EXPECT_EQ(b_.answers[0].requests(), 1U);
  EXPECT_EQ(b_.answers[0].requests_left_ms(), 40'000U) << "its window runs on";
  b_.Ask(key_, 1, 0, 0);
  a_.Return(key_, 0, 0, 0);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_REQUESTS);
  now_ += absl::Seconds(40);
  b_.Ask(key_, 1, 0, 0);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_UNSPECIFIED) << "the next window";
}

TEST_F(WindowDeskTest, AReportThatDoesNotComeIsAnUnknownLimit) {
  a_.Attach();
  b_.Attach();
  b_.Report();
  b_.Ask(key_, 1, 0, 0);
  now_ += absl::Seconds(1);
  desk_.Tick();
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_UNKNOWN);
}

TEST_F(WindowDeskTest, OthersGiveBackBeforeAnybodyIsRefused) {
  Both();
  a_.Ask(key_, 6, 0, 0);
  EXPECT_EQ(a_.answers.back().requests(), 6U);
  b_.Ask(key_, 2, 0, 0);
  b_.Ask(key_, 1, 0, 0);
  EXPECT_EQ(b_.answers.size(), 1U);
  ASSERT_EQ(a_.recalls.size(), 1U);
  a_.Return(key_, 4, 0, 0);
  ASSERT_EQ(b_.answers.size(), 2U);
  EXPECT_EQ(b_.answers[1].requests(), 1U);
}

TEST_F(WindowDeskTest, OneThatDoesNotAnswerIsWaitedForNoLongerThanTheBound) {
  Both();
  a_.Ask(key_, 8, 0, 0);
  b_.Ask(key_, 1, 0, 0);
  EXPECT_TRUE(b_.answers.empty());
  now_ += absl::Milliseconds(500);
  desk_.Tick();
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_REQUESTS);
}

TEST_F(WindowDeskTest, PermitsOfAWindowThatIsOverDoNotComeBack) {
  Both();
  a_.Ask(key_, 8, 0, 0);
  now_ += absl::Seconds(60);
  b_.Ask(key_, 8, 0, 0);
  EXPECT_EQ(b_.answers.back().requests(), 8U);
  a_.Return(key_, 8, 0, 0);
  b_.Ask(key_, 1, 0, 0);
  a_.Return(key_, 8, 0, 0);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_REQUESTS);
}

TEST_F(WindowDeskTest, WhatIsLeftInPiecesIsPutTogetherForTheFirstThatAsks) {
  Both();
  a_.Ask(key_, 0, 4000, 0);
  b_.Ask(key_, 0, 4000, 0);
  // 600 are left at one, 500 at the other; a request of 1,000 comes to each.
  a_.Ask(key_, 0, 1000, 0);
  b_.Ask(key_, 0, 1000, 0);
  ASSERT_EQ(a_.recalls.size(), 1U) << "its own piece is wanted as well";
  a_.Return(key_, 0, 600, 0);
  b_.Return(key_, 0, 500, 0);
  EXPECT_EQ(a_.answers.back().tokens(), 1000U);
  a_.Return(key_, 0, 0, 0);
  b_.Return(key_, 0, 0, 0);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_TOKENS);
}

TEST_F(WindowDeskTest, TokensThatAreOwedCountInTheWindowThatRuns) {
  Both();
  a_.Ask(key_, 0, 4000, 0);
  v1::TokensOwed owed;
  owed.set_key_id(key_.ToBytes());
  owed.set_tokens(5000);
  desk_.Owe(a_.id, owed);
  b_.Ask(key_, 0, 1, 0);
  a_.Return(key_, 0, 0, 0);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_TOKENS);
  EXPECT_EQ(b_.answers.back().tokens_used(), 9000U);
}

TEST_F(WindowDeskTest, SlotsOfAGatewayThatLeftAreFreeAndThoseOfALostOneAreNot) {
  Both();
  a_.Ask(key_, 0, 0, 4);
  b_.Ask(key_, 0, 0, 1);
  a_.Return(key_, 0, 0, 0);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_SLOTS);
  desk_.Detach(a_.id);
  now_ += absl::Minutes(5);
  desk_.Tick();
  b_.Ask(key_, 0, 0, 1);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_SLOTS) << "its requests may run on";
  EXPECT_FALSE(b_.mode.alone());
  now_ += absl::Hours(1);
  desk_.Tick();
  EXPECT_TRUE(b_.mode.alone()) << "no request is that long";

  WindowDesk other(Options());
  FakeGateway c(&other), d(&other);
  c.Attach();
  d.Attach();
  c.Report();
  d.Report();
  c.Ask(key_, 0, 0, 4);
  other.Remove(c.id);
  EXPECT_TRUE(d.mode.alone());
}

TEST_F(WindowDeskTest, WhatALesseeHadIsKnownWhenItIsLost) {
  Both();
  a_.Ask(key_, 5, 0, 0);
  desk_.Detach(a_.id);
  b_.Ask(key_, 3, 0, 0);
  EXPECT_EQ(b_.answers.back().requests(), 3U) << "five of eight are its, used or not";
  b_.Ask(key_, 1, 0, 0);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_REQUESTS);
  a_.Attach();
  a_.Report({Counted(key_, 5, 0)});
  b_.Ask(key_, 1, 0, 0);
  a_.Return(key_, 0, 0, 0);
  EXPECT_EQ(b_.answers.back().requests_used(), 8U) << "what it reports again is not counted twice";
}

TEST_F(WindowDeskTest, WhatOneThatWasAloneHasCountedIsNotKnownWhenItIsLost) {
  a_.Attach();
  desk_.Detach(a_.id);
  b_.Attach();
  b_.Report();
  b_.Ask(key_, 1, 0, 0);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_UNKNOWN);
  now_ += absl::Seconds(120);
  desk_.Tick();
  EXPECT_TRUE(b_.mode.alone()) << "by now its window is over";
}

TEST_F(WindowDeskTest, ARestartedGatewayHasNoSlots) {
  Both();
  a_.Ask(key_, 0, 0, 4);
  a_.Attach(/*fresh=*/true);
  a_.Report();
  b_.Ask(key_, 0, 0, 4);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_UNSPECIFIED);
}

TEST_F(WindowDeskTest, AfterARestartOfBillingWindowsAreFullUntilAllHaveReported) {
  desk_.Await({a_.id, b_.id});
  a_.Attach();
  a_.Report({Counted(key_, 4, 1000, 2)});
  a_.Ask(key_, 1, 0, 0);
  EXPECT_EQ(a_.LastRefusal(), v1::WINDOW_LIMIT_UNKNOWN);
  b_.Attach();
  b_.Report({Counted(key_, 3, 1000, 2)});
  a_.Ask(key_, 1, 0, 0);
  EXPECT_EQ(a_.LastRefusal(), v1::WINDOW_LIMIT_UNSPECIFIED) << "4 and 3 of 8";
  a_.Ask(key_, 0, 0, 1);
  b_.Return(key_, 0, 0, 0);
  EXPECT_EQ(a_.LastRefusal(), v1::WINDOW_LIMIT_SLOTS);
  b_.Ask(key_, 1, 0, 0);
  a_.Return(key_, 0, 0, 0);
  EXPECT_EQ(b_.LastRefusal(), v1::WINDOW_LIMIT_REQUESTS);
}

TEST_F(WindowDeskTest, AfterARestartOfBillingALostGatewayIsWaitedForUntilItsWindowHasPassed) {
  desk_.Await({a_.id, b_.id});
  a_.Attach();
  a_.Report();
  now_ += absl::Seconds(119);
  desk_.Tick();
  a_.Ask(key_, 1, 0, 0);
  EXPECT_EQ(a_.LastRefusal(), v1::WINDOW_LIMIT_UNKNOWN);
  now_ += absl::Seconds(1);
  desk_.Tick();
  EXPECT_TRUE(a_.mode.alone());
}

TEST_F(WindowDeskTest, TheLastThatIsLeftTakesTheCountsOver) {
  Both();
  a_.Ask(key_, 3, 0, 1);
  b_.Ask(key_, 2, 100, 0);
  now_ += absl::Seconds(10);
  desk_.Remove(a_.id);
  ASSERT_TRUE(b_.mode.alone());
  ASSERT_EQ(b_.mode.windows_size(), 1);
  EXPECT_GE(b_.mode.windows(0).requests(), 5U);
  EXPECT_EQ(b_.mode.windows(0).requests_age_ms(), 10'000U);
  EXPECT_EQ(b_.mode.windows(0).slots(), 0U) << "the other's are gone with it";
  EXPECT_EQ(desk_.keys(), 0U);
}

TEST_F(WindowDeskTest, KeysThatNobodyUsesAreForgotten) {
  Both();
  a_.Ask(key_, 1, 0, 0);
  EXPECT_EQ(desk_.keys(), 1U);
  now_ += absl::Seconds(61);
  desk_.Tick();
  EXPECT_EQ(desk_.keys(), 0U);
}

}  // namespace
}  // namespace gantry::billing
