// kill -9 while usage is being taken: what was acknowledged is there once, whatever is sent again.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "billing/audit/audit.h"
#include "billing/service/billing_process.h"
#include "billing/store/store.h"
#include "billing/testing/admin_calls.h"
#include "engine/base/long_test_util.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {
namespace {

// Everything that the sender believes.
struct Ledger {
  std::vector<v1::UsageRecord> unacknowledged;
  std::set<std::string> acknowledged;
  std::vector<v1::UsageRecord> all;
};

TEST(BillingKill, LosesNothingAndCountsNothingTwice) {
  const int rounds = engine::LongTests() ? 1'000 : 50;
  const auto start = std::chrono::steady_clock::now();
  TestIdentities identities;
  auto process = std::make_unique<BillingProcess>(identities);
  auto channel = [&](const char* name) { return MakeChannel(identities.Socket("billing"), identities.Get(name)); };
  auto admin = v1::BillingAdmin::NewStub(channel("admin"));
  AddParty(*admin, v1::PARTY_KIND_HOUSE, "house");
  const v1::PlanVersion plan = AddPlan(*admin, {333'333, 333'333, 333'333, 333'333});
  const v1::Party tenant = AddParty(*admin, v1::PARTY_KIND_TENANT, "demo");
  AddMoney(*admin, "demo", 1'000'000'000'000);
  v1::GrantSliceRequest slice;
  slice.set_slice_id(NewTimeOrderedId().ToBytes());
  slice.set_gateway_id(NewTimeOrderedId().ToBytes());
  slice.set_gateway_epoch(1);
  slice.set_party_id(tenant.party_id());
  slice.set_wanted_micro(900'000'000'000);
  slice.set_minimum_micro(1);
  Done(*v1::Credit::NewStub(channel("gateway")), &v1::Credit::Stub::GrantSlice, slice);

  Ledger ledger;
  std::atomic<int64_t> acknowledged_batches{0};
  std::mt19937_64 random(11);
  for (int round = 0; round < rounds; ++round) {
    // A sender works at full speed until its peer dies, some of its records sent twice on purpose.
    Deadline context(60);
    const int64_t batches_before = acknowledged_batches;
    std::thread sender([&] {
      auto usage = v1::Usage::NewStub(channel("gateway"));
      auto stream = usage->AppendUsage(&context);
      for (;;) {
        v1::UsageBatch batch;
        for (const v1::UsageRecord& record : ledger.unacknowledged) *batch.add_records() = record;
        while (batch.records_size() < 120) {
          v1::UsageRecord record;
          record.set_record_id(NewTimeOrderedId().ToBytes());
          record.set_request_id(NewTimeOrderedId().ToBytes());
          record.set_party_id(tenant.party_id());
          record.set_key_id(std::string(16, 'k'));
          record.set_slice_id(slice.slice_id());
          record.set_model("m");
          record.set_plan_version_id(plan.plan_version_id());
          record.set_outcome(v1::USAGE_OUTCOME_COMPLETED);
          record.set_output_tokens(random() % 1000);
          ledger.all.push_back(record);
          *batch.add_records() = record;
        }
        if (ledger.all.size() > 200) *batch.add_records() = ledger.all[random() % (ledger.all.size() - 130)];
        ledger.unacknowledged.assign(batch.records().begin(), batch.records().end());
        v1::UsageAck ack;
        if (!stream->Write(batch) || !stream->Read(&ack)) break;
        ASSERT_EQ(ack.rejected_size(), 0) << ack.rejected(0).reason();
        for (const std::string& id : ack.record_ids()) ledger.acknowledged.insert(id);
        ledger.unacknowledged.clear();
        ++acknowledged_batches;
      }
      context.TryCancel();
      stream->Finish();
    });
    // Most kills hit a process at work, some one that is just starting.
    if (random() % 16 != 0) {
      while (acknowledged_batches == batches_before) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 40'000));
    process->Kill();
    context.TryCancel();  // it may not have been connected yet
    sender.join();
    process = std::make_unique<BillingProcess>(identities);
  }
  process->Kill();

  Store::Options options;
  options.path = identities.dir() + "/billing/gantry.db";
  auto store = Store::Open(options);
  ASSERT_TRUE(store.ok()) << store.status();
  absl::Status checked = (*store)->ReadAndWait([&](Database& db) {
    std::map<std::string, uint64_t> booked;  // output tokens
    size_t doubled = 0, lost = 0, changed = 0;
    for (Rows rows = db.Query("SELECT record_id, output_tokens FROM usage_event"); rows.Next();) {
      doubled += booked.emplace(rows.Text(0), static_cast<uint64_t>(rows.Int(1))).second ? 0 : 1;
    }
    for (const std::string& id : ledger.acknowledged) lost += booked.count(id) == 0 ? 1 : 0;
    for (const v1::UsageRecord& record : ledger.all) {
      const auto found = booked.find(record.record_id());
      changed += found != booked.end() && found->second != record.output_tokens() ? 1 : 0;
    }
    EXPECT_EQ(lost, 0u) << "acknowledged and lost";
    EXPECT_EQ(doubled, 0u);
    EXPECT_EQ(changed, 0u) << "booked with other counts than were sent";
    EXPECT_LE(booked.size(), ledger.all.size());
    v1::AuditReport report = Audit(db);
    EXPECT_TRUE(report.ok()) << report.DebugString();
    std::printf("%d kills, %zu records acknowledged, %zu booked, %zu doubled, %zu lost; the books hold: %s; %.1f s\n",
                rounds, ledger.acknowledged.size(), booked.size(), doubled, lost, report.ok() ? "yes" : "no",
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    return absl::OkStatus();
  });
  EXPECT_TRUE(checked.ok()) << checked;
  EXPECT_GT(ledger.acknowledged.size(), 0u);
}

}  // namespace
}  // namespace gantry::billing
