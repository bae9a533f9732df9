#include "billing/outbox/alert_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kNowUs = 1'794'312'000'000'000, kHourUs = 3'600'000'000, kDayUs = 24 * kHourUs;
constexpr int64_t kMicro = 1'000'000;

// A book of states that facts are told to one after the other; says what was told as "topic level".
class Desk {
 public:
  std::string Tell(const std::vector<AlertFact>& facts, int64_t now_us = kNowUs) {
    std::string told;
    for (const AlertDecision& decision : EvaluateAlerts(facts, states_, now_us)) {
      if (decision.after.has_value()) {
        states_[decision.key] = *decision.after;
      } else {
        states_.erase(decision.key);
      }
      for (const OutboxMessage& message : decision.messages) {
        absl::StrAppend(&told, told.empty() ? "" : " ", message.topic, " ", decision.after->level);
        last_ = message;
      }
    }
    return told;
  }
  const AlertStates& states() const { return states_; }
  const OutboxMessage& last() const { return last_; }

 private:
  AlertStates states_;
  OutboxMessage last_;
};

AlertFact Budget(int64_t used, const std::string& window = "2026-11-10") {
  return {.rule = AlertRule::kBudget,
          .subject = "k1",
          .window = window,
          .label = "key laptop (ABCD)",
          .party_name = "acme",
          .audience = {Id16{}},
          .currency = "EUR",
          .used_micro = used * kMicro,
          .limit_micro = 100 * kMicro};
}
AlertFact Balance(int64_t left, const std::string& window = "lot 1") {
  return {.rule = AlertRule::kBalance,
          .subject = "acme",
          .window = window,
          .party_name = "acme",
          .audience = {Id16{}},
          .currency = "EUR",
          .balance_micro = left * kMicro};
}
AlertFact Expiry(AlertRule rule, int64_t expires_us) {
  return {.rule = rule,
          .subject = "x",
          .window = absl::StrCat(expires_us),
          .label = "key laptop (ABCD)",
          .party_name = "acme",
          .audience = {Id16{}},
          .currency = "EUR",
          .expires_us = expires_us,
          .amount_micro = 5 * kMicro};
}
AlertFact Condition(AlertRule rule, bool holds, const std::string& window = "") {
  return {.rule = rule,
          .subject = "x",
          .window = window,
          .label = "invoice R-1",
          .party_name = "acme",
          .audience = {Id16{}},
          .currency = "EUR",
          .expires_us = kNowUs,
          .amount_micro = 5 * kMicro,
          .count = 2,
          .holds = holds,
          .detail = "lots"};
}

TEST(AlertRules, ABudgetIsToldAtEachThresholdOnce) {
  Desk desk;
  const struct {
    int64_t used;
    const char* told;
  } steps[] = {{0, ""},  {49, ""}, {50, "budget.threshold 50"},   {51, ""},  {79, ""}, {80, "budget.threshold 80"},
               {99, ""}, {80, ""}, {100, "budget.threshold 100"}, {140, ""}, {100, ""}};
  for (const auto& step : steps) EXPECT_EQ(desk.Tell({Budget(step.used)}), step.told) << step.used;
  EXPECT_EQ(desk.last().title, "The budget of key laptop (ABCD) is used up");
  EXPECT_THAT(desk.last().text, HasSubstr("100.00 EUR of 100.00 EUR are used."));
  EXPECT_EQ(desk.last().data["percent"], 100);
}

TEST(AlertRules, AJumpTellsTheHighestAlone) {
  Desk desk;
  EXPECT_EQ(desk.Tell({Budget(95)}), "budget.threshold 80");
  EXPECT_EQ(desk.Tell({Budget(120)}), "budget.threshold 100");
}

TEST(AlertRules, AMeterMustFallWellBelowAThresholdToBeToldAgain) {
  Desk desk;
  EXPECT_EQ(desk.Tell({Budget(80)}), "budget.threshold 80");
  EXPECT_EQ(desk.Tell({Budget(76)}), "") << "not far enough";
  EXPECT_EQ(desk.Tell({Budget(81)}), "");
  EXPECT_EQ(desk.Tell({Budget(74)}), "") << "armed again";
  EXPECT_EQ(desk.Tell({Budget(81)}), "budget.threshold 80");
  EXPECT_EQ(desk.Tell({Budget(10)}), "");
  EXPECT_TRUE(desk.states().empty()) << "as if nothing had been";
  EXPECT_EQ(desk.Tell({Budget(55)}), "budget.threshold 50");
}

TEST(AlertRules, ANewWindowBeginsAnew) {
  Desk desk;
  EXPECT_EQ(desk.Tell({Budget(100)}), "budget.threshold 100");
  EXPECT_EQ(desk.Tell({Budget(60, "2026-11-11")}), "budget.threshold 50");
  EXPECT_EQ(desk.Tell({Budget(0, "2026-11-12")}), "");
  EXPECT_TRUE(desk.states().empty());
}

TEST(AlertRules, NoBudgetNoAlert) {
  Desk desk;
  AlertFact fact = Budget(50);
  fact.limit_micro = 0;
  EXPECT_EQ(desk.Tell({fact}), "");
  fact.limit_micro = 1;  // the smallest
  fact.used_micro = INT64_MAX;
  EXPECT_EQ(desk.Tell({fact}), "budget.threshold 100");
}

TEST(AlertRules, ABalanceIsMeasuredByWhatThereWasAfterTheLastTopUp) {
  Desk desk;
  const struct {
    int64_t left;
    const char *window, *told;
  } steps[] = {{100, "lot 1", ""},
               {51, "lot 1", ""},
               {50, "lot 1", "balance.threshold 50"},
               {20, "lot 1", "balance.threshold 80"},
               {22, "lot 1", ""},  // something came back, and not enough
               {20, "lot 1", ""},
               {30, "lot 1", ""},  // enough: armed again
               {20, "lot 1", "balance.threshold 80"},
               {0, "lot 1", "balance.threshold 100"},
               {-5, "lot 1", ""},
               {30, "lot 2", ""},  // a top-up of 35
               {15, "lot 2", "balance.threshold 50"},
               {200, "lot 3", ""},
               {100, "lot 3", "balance.threshold 50"}};
  for (const auto& step : steps) EXPECT_EQ(desk.Tell({Balance(step.left, step.window)}), step.told) << step.left;
  EXPECT_EQ(desk.last().title, "50 % of the balance of acme is used");
  EXPECT_EQ(desk.last().text, "100.00 EUR are left of 200.00 EUR after the last top-up.");
}

TEST(AlertRules, WhoNeverHadAnythingIsNotTold) {
  Desk desk;
  EXPECT_EQ(desk.Tell({Balance(0)}), "");
  EXPECT_EQ(desk.Tell({Balance(-5)}), "");
  EXPECT_TRUE(desk.states().empty());
}

TEST(AlertRules, ExpiryIsToldAWeekAndADayBefore) {
  for (const AlertRule rule : {AlertRule::kKeyExpiry, AlertRule::kCreditExpiry}) {
    Desk desk;
    const int64_t expires_us = kNowUs + 30 * kDayUs;
    const std::string topic = AlertTopic(rule);
    const auto at = [&](int64_t before_us) { return desk.Tell({Expiry(rule, expires_us)}, expires_us - before_us); };
    EXPECT_EQ(at(8 * kDayUs), "");
    EXPECT_EQ(at(7 * kDayUs), topic + " 1");
    EXPECT_EQ(at(2 * kDayUs), "");
    EXPECT_EQ(at(kDayUs), topic + " 2");
    EXPECT_EQ(at(kHourUs), "");
    EXPECT_EQ(at(0), "") << "over";
    EXPECT_EQ(desk.Tell({}, expires_us), "");
    EXPECT_TRUE(desk.states().empty());
    EXPECT_EQ(desk.Tell({Expiry(rule, kNowUs + kHourUs)}), topic + " 2") << "short from the beginning";
    EXPECT_EQ(desk.Tell({Expiry(rule, kNowUs + 6 * kDayUs)}), topic + " 1") << "made longer: another date";
  }
}

TEST(AlertRules, ConditionsAreToldWhenTheyBegin) {
  for (const AlertRule rule : {AlertRule::kInvoiceOverdue, AlertRule::kPartyParked, AlertRule::kUsageQuarantined}) {
    Desk desk;
    const std::string told = absl::StrCat(AlertTopic(rule), " 1");
    EXPECT_EQ(desk.Tell({Condition(rule, false)}), "");
    EXPECT_EQ(desk.Tell({Condition(rule, true)}), told);
    EXPECT_EQ(desk.Tell({Condition(rule, true)}), "");
    EXPECT_EQ(desk.Tell({Condition(rule, true, "next day")}), told);
    EXPECT_EQ(desk.Tell({}), "") << "gone";
    EXPECT_EQ(desk.Tell({Condition(rule, true, "next day")}), told) << "and back";
  }
}

TEST(AlertRules, EverybodyWhoMustKnowIsTold) {
  AlertFact fact = Condition(AlertRule::kPartyParked, true);
  const Id16 party = NewTimeOrderedId(), house = NewTimeOrderedId();
  fact.audience = {party, house};
  const std::vector<AlertDecision> decisions = EvaluateAlerts({fact}, {}, kNowUs);
  ASSERT_EQ(decisions.size(), 1u);
  ASSERT_EQ(decisions[0].messages.size(), 2u);
  EXPECT_EQ(decisions[0].messages[0].party_id, party);
  EXPECT_EQ(decisions[0].messages[1].party_id, house);
  EXPECT_EQ(decisions[0].messages[1].title, "acme is parked");
}

TEST(AlertRules, NothingChangesWhereNothingHappens) {
  Desk desk;
  const std::vector<AlertFact> facts = {Budget(85), Balance(100), Expiry(AlertRule::kKeyExpiry, kNowUs + kHourUs)};
  desk.Tell(facts);
  EXPECT_TRUE(EvaluateAlerts(facts, desk.states(), kNowUs).empty());
}

// Against the rule in its simplest words: within a window a level is told when it is reached and was not reached since
// it was last left for good.
TEST(AlertRules, RandomWalksOfABudgetAgreeWithAModel) {
  std::mt19937_64 random(7);
  for (int walk = 0; walk < 200; ++walk) {
    Desk desk;
    int armed_below = 0;  // the highest level that was told and not left
    int64_t used = 0;
    std::string window = "1";
    for (int step = 0; step < 60; ++step) {
      if (random() % 15 == 0) {
        window += "1";
        used = 0;
        armed_below = 0;
      }
      used = std::max<int64_t>(0, used + static_cast<int64_t>(random() % 41) - 16);
      const int level = used >= 100 ? 100 : used >= 80 ? 80 : used >= 50 ? 50 : 0;
      const int held = used >= 95 ? 100 : used >= 75 ? 80 : used >= 45 ? 50 : 0;  // with the margin
      const std::string expected = level > armed_below ? absl::StrCat("budget.threshold ", level) : "";
      armed_below = level > armed_below ? level : std::min(armed_below, std::max(level, held));
      ASSERT_EQ(desk.Tell({Budget(used, window)}), expected) << "walk " << walk << " step " << step << " used " << used;
    }
  }
}

}  // namespace
}  // namespace gantry::billing
