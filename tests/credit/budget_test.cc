// The budget of one key over two gateways: what is used of it is what it allows, and no more.
#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/credit/rig.h"

namespace gantry::testing {
namespace {

TEST(KeyBudget, IsUsedUpExactlyOverTwoGatewaysAndSurvivesRestarts) {
  CreditRig rig(1'000'000);
  v1::CreateKeyRequest request;
  request.set_budget_micro(150 * 200 + 149);
  request.set_budget_period(v1::BUDGET_PERIOD_MONTH);
  const std::string key = rig.NewKey(request);
  const std::string other = rig.NewKey();
  const auto start = [&] {
    std::vector<std::unique_ptr<GatewayRig>> gateways;
    for (const char* name : {"first", "second"}) gateways.push_back(std::make_unique<GatewayRig>(&rig, name, 5'000));
    for (auto& gateway : gateways) {
      gateway->WaitReady();
      gateway->WaitForKey(key);
    }
    return gateways;
  };
  std::atomic<int64_t> served{0};
  // Requests of exactly 150 micro-units each, until `enough` in all or the budget is spent.
  const auto load = [&](std::vector<std::unique_ptr<GatewayRig>>& gateways, int64_t enough) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        while (served < enough) {
          const std::string refusal = gateways[t % 2]->Serve(key, 50, 50);
          if (refusal.empty()) {
            ++served;
          } else if (refusal != "billing_away") {
            EXPECT_EQ(refusal, "key_budget");
            return;
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  auto gateways = start();
  load(gateways, 100);
  for (auto& gateway : gateways) ASSERT_TRUE(gateway->Leave());
  gateways.clear();
  rig.StopBilling();
  rig.StartBilling();
  EXPECT_EQ(rig.FindKey(key).used_micro(), served * 150);
  gateways = start();
  load(gateways, INT64_MAX);
  EXPECT_EQ(served, 200);
  EXPECT_EQ(gateways[0]->Serve(other, 50, 50), "") << "the tenant has money";
  for (auto& gateway : gateways) ASSERT_TRUE(gateway->Leave());
  const v1::Key shown = rig.FindKey(key);
  EXPECT_EQ(shown.used_micro(), 200 * 150);
  EXPECT_EQ(shown.budget_period(), v1::BUDGET_PERIOD_MONTH);
  EXPECT_GT(shown.resets_us(), 0);
  EXPECT_EQ(rig.UsageMicro(), 201 * 150);
  EXPECT_TRUE(rig.Audit().ok());
}

TEST(KeyBudget, ARevokedKeyIsRefusedWithinASecondAndARotatedOneServesOn) {
  CreditRig rig(1'000'000);
  GatewayRig gateway(&rig, "first", 5'000);
  const std::string old = rig.NewKey();
  gateway.WaitReady();
  gateway.WaitForKey(old);
  const std::string fresh = rig.Rotate(old, /*overlap_s=*/3600);
  gateway.WaitForKey(fresh);
  EXPECT_EQ(gateway.Serve(old, 10, 10), "") << "valid through the overlap";
  EXPECT_EQ(gateway.Serve(fresh, 10, 10), "");
  auto running = gateway.Admit(old, 10);
  ASSERT_TRUE(std::holds_alternative<std::unique_ptr<gateway::Permit>>(running));
  rig.Revoke(old);
  const absl::Time revoked = absl::Now();
  while (!std::get<std::unique_ptr<gateway::Permit>>(running)->revoked() && absl::Now() < revoked + absl::Seconds(5)) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_LT(absl::Now() - revoked, absl::Seconds(1)) << "R5";
  EXPECT_EQ(gateway.Serve(old, 10, 10), "invalid_key");
  EXPECT_EQ(gateway.Serve(fresh, 10, 10), "");
  std::get<std::unique_ptr<gateway::Permit>>(running).reset();
  EXPECT_TRUE(gateway.Leave());
}

}  // namespace
}  // namespace gantry::testing
