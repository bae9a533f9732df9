// One key on two gateways (R8): its limits hold over both, one gateway alone counts as if there were no others, and
// while a lease lasts nobody is asked.
#include <atomic>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/credit/rig.h"

namespace gantry::testing {
namespace {

class Windows : public ::testing::Test {
 protected:
  Windows() : rig_(1'000'000'000) {}
  void TearDown() override {
    for (auto& gateway : gateways_) EXPECT_TRUE(gateway->Leave());
  }
  GatewayRig& Start(const std::string& name) {
    gateways_.push_back(std::make_unique<GatewayRig>(&rig_, name, /*slice_micro=*/1'000'000));
    gateways_.back()->WaitReady();
    return *gateways_.back();
  }
  std::string Key(uint32_t requests, uint64_t tokens, uint32_t concurrency) {
    v1::CreateKeyRequest request;
    request.set_requests_per_minute(requests);
    request.set_tokens_per_minute(tokens);
    request.set_concurrency(concurrency);
    const std::string key = rig_.NewKey(request);
    for (auto& gateway : gateways_) gateway->WaitForKey(key);
    return key;
  }
  // Serves on each gateway from several threads until both refuse; returns how many were served.
  int64_t ServeUntilRefused(const std::string& key, const std::string& refusal, uint64_t output = 10) {
    std::atomic<int64_t> served{0};
    std::vector<std::thread> threads;
    for (auto& gateway : gateways_) {
      for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&] {
          for (;;) {
            const std::string refused = gateway->Serve(key, output, output);
            if (refused.empty()) {
              ++served;
            } else if (refused != "billing_away") {
              EXPECT_EQ(refused, refusal);
              return;
            }
          }
        });
      }
    }
    for (std::thread& thread : threads) thread.join();
    return served;
  }

  CreditRig rig_;
  std::vector<std::unique_ptr<GatewayRig>> gateways_;
};

TEST_F(Windows, RequestsPerMinuteHoldOverBoth) {
  Start("first");
  Start("second");
  EXPECT_EQ(ServeUntilRefused(Key(200, 0, 0), "requests"), 200);
}

TEST_F(Windows, TokensPerMinuteHoldOverBoth) {
  Start("first");
  Start("second");
  // Each takes 110, as much as it reserves.
  EXPECT_EQ(ServeUntilRefused(Key(0, 110 * 100, 0), "tokens"), 100);
}

TEST_F(Windows, WhatOneCountedAloneCountsForTheSecond) {
  GatewayRig& first = Start("first");
  const std::string key = Key(100, 0, 0);
  for (int i = 0; i < 60; ++i) EXPECT_EQ(first.Serve(key, 10, 10), "");
  EXPECT_EQ(first.permit_requests(), 0) << "alone it asks nobody";
  GatewayRig& second = Start("second");
  second.WaitForKey(key);
  EXPECT_EQ(ServeUntilRefused(key, "requests"), 40);
  EXPECT_TRUE(second.Leave());
  gateways_.pop_back();
  EXPECT_EQ(first.Serve(key, 10, 10), "requests") << "alone again, it goes on counting";
}

TEST_F(Windows, SlotsMoveToWhoNeedsThem) {
  GatewayRig& first = Start("first");
  GatewayRig& second = Start("second");
  const std::string key = Key(0, 0, 4);
  using Permits = std::vector<std::unique_ptr<gateway::Permit>>;
  const auto admit = [&](GatewayRig& gateway, Permits* permits) {
    auto admitted = gateway.Admit(key, 10);
    if (auto* refusal = std::get_if<gateway::Refusal>(&admitted)) return gateway::RefusalName(refusal->reason);
    permits->push_back(std::move(std::get<std::unique_ptr<gateway::Permit>>(admitted)));
    return "";
  };
  Permits on_first, on_second;
  for (int i = 0; i < 3; ++i) EXPECT_STREQ(admit(first, &on_first), "");
  EXPECT_STREQ(admit(second, &on_second), "");
  EXPECT_STREQ(admit(first, &on_first), "concurrency");
  EXPECT_STREQ(admit(second, &on_second), "concurrency");
  on_first.clear();
  absl::SleepFor(absl::Milliseconds(30));  // a refusal is believed for 20 ms
  for (int i = 0; i < 3; ++i) EXPECT_STREQ(admit(second, &on_second), "") << i;
  EXPECT_STREQ(admit(second, &on_second), "concurrency");
}

TEST_F(Windows, NobodyIsAskedWhileALeaseLasts) {
  GatewayRig& first = Start("first");
  Start("second");
  const std::string key = Key(160, 0, 0);
  EXPECT_EQ(first.Serve(key, 10, 10), "");
  // A sixteenth of the limit was leased, and a slice is at hand.
  rig_.StopBilling();
  for (int i = 0; i < 9; ++i) EXPECT_EQ(first.Serve(key, 10, 10), "") << i;
  EXPECT_EQ(first.Serve(key, 10, 10), "billing_away");
  rig_.StartBilling();
}

TEST_F(Windows, ABillingThatStartsAgainCountsOnFromWhatBothReport) {
  Start("first");
  Start("second");
  const std::string key = Key(100, 0, 0);
  for (int i = 0; i < 20; ++i) {
    for (auto& gateway : gateways_) EXPECT_EQ(gateway->Serve(key, 10, 10), "");
  }
  rig_.StopBilling();
  rig_.StartBilling();
  EXPECT_LE(ServeUntilRefused(key, "requests"), 60);
}

}  // namespace
}  // namespace gantry::testing
