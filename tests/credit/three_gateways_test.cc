// Three gateways on one balance (R6): load all on one, then shifted, then on all. What is admitted is what there is
// money for, neither more nor fewer while demand exceeds it.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/long_test_util.h"
#include "gtest/gtest.h"
#include "tests/credit/rig.h"

namespace gantry::testing {
namespace {

constexpr int64_t kSliceMicro = 20'000;

class ThreeGateways : public ::testing::Test {
 protected:
  void Start(int64_t balance_micro) {
    rig_ = std::make_unique<CreditRig>(balance_micro);
    key_ = rig_->NewKey();
    for (const char* name : {"first", "second", "third"}) {
      gateways_.push_back(std::make_unique<GatewayRig>(rig_.get(), name, kSliceMicro));
    }
    for (auto& gateway : gateways_) gateway->WaitReady();
  }
  void TearDown() override {
    for (auto& gateway : gateways_) EXPECT_TRUE(gateway->Leave());
    const v1::AuditReport report = rig_->Audit();
    EXPECT_TRUE(report.ok()) << report.DebugString();
    gateways_.clear();
  }

  std::unique_ptr<CreditRig> rig_;
  std::vector<std::unique_ptr<GatewayRig>> gateways_;
  std::string key_;
};

// Requests of exactly 150 micro-units each: 100 prompt tokens and all of 50.
TEST_F(ThreeGateways, AdmitWhatThereIsMoneyForAndNotOneMore) {
  const int64_t requests = engine::LongTests() ? 100'000 : 3'000;
  const int64_t balance = requests * 150 + 149;
  Start(balance);
  std::mutex mu;
  std::vector<absl::Time> begun;    // of requests that were served
  std::vector<absl::Time> refused;  // when
  std::atomic<int64_t> served{0}, away{0};
  // Serves on one gateway until `enough` requests were served in all, or money is refused.
  const auto load = [&](GatewayRig& gateway, int64_t enough) {
    while (served < enough) {
      const absl::Time began = absl::Now();
      const std::string refusal = gateway.Serve(key_, 50, 50);
      std::lock_guard lock(mu);
      if (refusal.empty()) {
        begun.push_back(began);
        ++served;
      } else if (refusal == "funds") {
        refused.push_back(absl::Now());
        return;
      } else {
        ASSERT_EQ(refusal, "billing_away");
        ++away;
      }
    }
  };
  const auto phase = [&](std::vector<int> on, int64_t enough) {
    std::vector<std::thread> threads;
    for (const int gateway : on) {
      for (int t = 0; t < 8; ++t) threads.emplace_back([&, gateway] { load(*gateways_[gateway], enough); });
    }
    for (std::thread& thread : threads) thread.join();
  };
  phase({0}, requests / 3);
  EXPECT_TRUE(refused.empty()) << "there is money";
  phase({1}, requests * 2 / 3);
  EXPECT_TRUE(refused.empty()) << "there is money, though another gateway had set it aside";
  phase({0, 1, 2}, INT64_MAX);
  EXPECT_EQ(served, requests);
  // A refusal is right when by then every request that was ever served had begun: all the money was held or spent.
  for (const absl::Time at : refused) {
    EXPECT_EQ(std::count_if(begun.begin(), begun.end(), [&](absl::Time b) { return b < at; }), requests)
        << "refused while there was money";
  }
  int64_t reserved = 0;
  for (auto& gateway : gateways_) {
    reserved += gateway->book().reserved_total();
    ASSERT_TRUE(gateway->Leave());
  }
  EXPECT_EQ(rig_->Balance().posted_micro(), 149);
  EXPECT_EQ(rig_->Balance().held_micro(), 0);
  EXPECT_EQ(rig_->UsageMicro(), requests * 150) << "what was used was paid by the tenant: overdraft 0";
  EXPECT_GT(reserved, 0);
  std::printf(
      "%lld of %lld requests, %zu refusals, none early, %lld waits for an unreachable gateway, %lld by Reserve\n",
      static_cast<long long>(served), static_cast<long long>(requests), refused.size(), static_cast<long long>(away),
      static_cast<long long>(reserved));
}

// Requests that cost less than they hold, and streams that grow: what is left in the end is less than one needs.
TEST_F(ThreeGateways, UseUpABalanceWithRequestsOfEveryLength) {
  const int64_t balance = engine::LongTests() ? 20'000'000 : 1'000'000;
  Start(balance);
  std::atomic<int64_t> served{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 24; ++t) {
    threads.emplace_back([&, t] {
      std::minstd_rand random(static_cast<unsigned>(t + 1));
      for (;;) {
        const uint64_t max_tokens = 1 + random() % 900;
        const std::string refusal = gateways_[t % 3]->Serve(key_, max_tokens, random() % (max_tokens + 1));
        if (refusal.empty()) {
          ++served;
          continue;
        }
        if (refusal == "billing_away") continue;
        ASSERT_EQ(refusal, "funds");
        // Too little for this one; the smallest there is decides when to stop.
        if (gateways_[t % 3]->Serve(key_, 1, 1) == "funds") return;
        ++served;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (auto& gateway : gateways_) ASSERT_TRUE(gateway->Leave());
  const v1::Balance left = rig_->Balance();
  EXPECT_GE(left.posted_micro(), 0);
  EXPECT_LT(left.posted_micro(), 101) << "100 prompt tokens and one more";
  EXPECT_EQ(left.held_micro(), 0);
  EXPECT_EQ(rig_->UsageMicro(), balance - left.posted_micro()) << "overdraft 0";
  std::printf("%lld requests of every length, %lld of %lld micro-units left\n", static_cast<long long>(served),
              static_cast<long long>(left.posted_micro()), static_cast<long long>(balance));
}

// Billing goes away and comes back under load: answers are lost, streams break, and the sums are the same.
TEST_F(ThreeGateways, AdmitTheSameWhenBillingStartsAgainAndAgain) {
  const int64_t requests = engine::LongTests() ? 30'000 : 2'000;
  Start(requests * 150 + 149);
  std::atomic<int64_t> served{0}, away{0};
  std::atomic<int> loading{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 12; ++t) {
    ++loading;
    threads.emplace_back([&, t] {
      for (;;) {
        const std::string refusal = gateways_[t % 3]->Serve(key_, 50, 50);
        if (refusal == "funds") break;
        if (refusal.empty()) {
          ++served;
          absl::SleepFor(absl::Milliseconds(2));
          continue;
        }
        EXPECT_EQ(refusal, "billing_away");
        ++away;
        absl::SleepFor(absl::Milliseconds(20));
      }
      --loading;
    });
  }
  int restarts = 0;
  for (; loading > 0 && restarts < 1000; ++restarts) {
    absl::SleepFor(absl::Milliseconds(150));
    rig_->StopBilling();
    rig_->StartBilling();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(served, requests);
  for (auto& gateway : gateways_) ASSERT_TRUE(gateway->Leave());
  EXPECT_EQ(rig_->Balance().posted_micro(), 149);
  EXPECT_EQ(rig_->Balance().held_micro(), 0) << "no answer that was lost has left anything behind";
  EXPECT_EQ(rig_->UsageMicro(), requests * 150) << "overdraft 0";
  std::printf("%lld of %lld requests over %d restarts, told %lld times to try again\n", static_cast<long long>(served),
              static_cast<long long>(requests), restarts, static_cast<long long>(away));
}

// Two tenants of one reseller, each on a gateway of its own: what is short is the reseller's money.
TEST_F(ThreeGateways, ShareTheMoneyOfAResellerBetweenItsTenants) {
  const int64_t requests = 1'000;
  Start(1);
  rig_->NewReseller("peer", requests * 150 + 149);
  std::vector<std::string> keys;
  for (const char* name : {"alpha", "beta"}) {
    rig_->NewTenant(name, 1'000'000'000, "peer");
    v1::CreateKeyRequest request;
    request.set_party_name(name);
    keys.push_back(rig_->NewKey(request));
    for (auto& gateway : gateways_) gateway->WaitForKey(keys.back());
  }
  std::atomic<int64_t> served{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (;;) {
        const std::string refusal = gateways_[t % 2]->Serve(keys[t % 2], 50, 50);
        if (refusal == "no_price" || refusal == "billing_away") continue;
        if (!refusal.empty()) {
          EXPECT_EQ(refusal, "funds");
          return;
        }
        ++served;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(served, requests);
  for (auto& gateway : gateways_) ASSERT_TRUE(gateway->Leave());
  EXPECT_EQ(rig_->Balance("peer").posted_micro(), 149);
  EXPECT_EQ(rig_->Balance("peer").held_micro(), 0);
}

}  // namespace
}  // namespace gantry::testing
