// The drill: billing works under load, a backup is made meanwhile, billing is killed, its disk is lost. With a command
// log everything acknowledged comes back, without one everything up to the backup, and what gateways still hold is
// counted once when they send it again. Keys made before work after.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "billing/audit/audit.h"
#include "billing/backup/restore.h"
#include "billing/catalog/keys.h"
#include "billing/service/billing_process.h"
#include "billing/store/store.h"
#include "billing/testing/admin_calls.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "services/common/api_key.h"
#include "services/common/ids.h"
#include "services/common/rpc.h"

namespace gantry::billing {
namespace {

namespace fs = std::filesystem;

class RestoreDrill : public testing::Test {
 protected:
  std::shared_ptr<grpc::Channel> Channel(const char* name) {
    return MakeChannel(identities_.Socket("billing"), identities_.Get(name));
  }
  std::unique_ptr<v1::BillingAdmin::Stub> Admin() { return v1::BillingAdmin::NewStub(Channel("admin")); }
  std::string Dir(const std::string& name) const { return identities_.dir() + "/" + name; }

  void SetUp() override {
    fs::create_directories(Dir("disk-a"));
    fs::create_directories(Dir("disk-b/log"));
    process_ = std::make_unique<BillingProcess>(identities_, Dir("disk-a/billing"), Dir("disk-b/log"));
    auto admin = Admin();
    AddParty(*admin, v1::PARTY_KIND_HOUSE, "house");
    plan_ = AddPlan(*admin, {333'333, 333'333, 333'333, 333'333});
    tenant_ = AddParty(*admin, v1::PARTY_KIND_TENANT, "demo");
    AddMoney(*admin, "demo", 1'000'000'000'000);
    old_key_ = AddKey(*admin, "demo", "old-key");
    revoked_key_ = AddKey(*admin, "demo", "revoked-key");
    slice_.set_slice_id(NewTimeOrderedId().ToBytes());
    slice_.set_gateway_id(NewTimeOrderedId().ToBytes());
    slice_.set_gateway_epoch(static_cast<uint64_t>(absl::ToUnixMicros(absl::Now())));
    slice_.set_party_id(tenant_.party_id());
    slice_.set_wanted_micro(900'000'000'000);
    slice_.set_minimum_micro(1);
    Done(*v1::Credit::NewStub(Channel("gateway")), &v1::Credit::Stub::GrantSlice, slice_);
  }

  void Revoke(const v1::CreateKeyResponse& key) {
    auto revoke = Keyed<v1::RevokeKeyRequest>("revoke");
    revoke.set_public_id(key.key().public_id());
    Done(*Admin(), &AdminStub::RevokeKey, revoke);
  }

  // As `gantry backup create` does it.
  BackupManifest MakeBackup(const std::string& path) {
    auto admin = Admin();
    auto writer = BackupWriter::Create(path, passphrase_, {.scrypt_log2_n = 4});
    EXPECT_TRUE(writer.ok()) << writer.status();
    Deadline context(60);
    const auto reader = admin->CreateBackup(&context, v1::CreateBackupRequest());
    v1::BackupChunk chunk;
    v1::BackupFacts facts;
    bool in_file = false;
    while (reader->Read(&chunk)) {
      if (!chunk.has_data()) {
        if (in_file) {
          EXPECT_TRUE((*writer)->EndFile().ok());
        }
        in_file = chunk.has_file();
        if (chunk.has_facts()) facts = chunk.facts();
        if (in_file) {
          EXPECT_TRUE((*writer)->BeginFile(chunk.file().name(), chunk.file().bytes()).ok());
        }
      } else {
        EXPECT_TRUE((*writer)->Write(chunk.data()).ok());
      }
    }
    const grpc::Status over = reader->Finish();
    EXPECT_TRUE(over.ok()) << over.error_message();
    BackupManifest manifest;
    manifest.backup_id = *Id16::FromBytes(facts.backup_id());
    manifest.books_id = *Id16::FromBytes(facts.books_id());
    manifest.made_us = facts.made_us();
    manifest.position = {facts.epoch(), facts.sequence()};
    manifest.schema_version = facts.schema_version();
    manifest.command_log = facts.command_log();
    for (const v1::BackupTable& table : facts.tables()) {
      manifest.tables.push_back({table.name(), table.last_seq(), table.head()});
    }
    EXPECT_TRUE((*writer)->Finish(manifest).ok());
    auto confirm = Keyed<v1::ConfirmBackupRequest>(path);
    confirm.set_backup_id(facts.backup_id());
    confirm.set_made_us(facts.made_us());
    confirm.set_epoch(facts.epoch());
    confirm.set_sequence(facts.sequence());
    Done(*admin, &AdminStub::ConfirmBackup, confirm);
    return manifest;
  }

  // A gateway that sends at full speed until billing dies; what it was told to be durable it remembers.
  void Send(int batches_at_most) {
    auto usage = v1::Usage::NewStub(Channel("gateway"));
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    const auto stream = usage->AppendUsage(&context);
    for (int i = 0; i < batches_at_most; ++i) {
      v1::UsageBatch batch;
      while (batch.records_size() < 50) {
        v1::UsageRecord record;
        record.set_record_id(NewTimeOrderedId().ToBytes());
        record.set_request_id(NewTimeOrderedId().ToBytes());
        record.set_party_id(tenant_.party_id());
        record.set_key_id(old_key_.key().key_id());
        record.set_slice_id(slice_.slice_id());
        record.set_model("m");
        record.set_plan_version_id(plan_.plan_version_id());
        record.set_outcome(v1::USAGE_OUTCOME_COMPLETED);
        record.set_output_tokens(random_() % 1000);
        *batch.add_records() = record;
      }
      v1::UsageAck ack;
      if (!stream->Write(batch)) break;
      sent_.insert(sent_.end(), batch.records().begin(), batch.records().end());
      if (!stream->Read(&ack)) break;
      acknowledged_.insert(ack.record_ids().begin(), ack.record_ids().end());
      ++acknowledged_batches_;
    }
    context.TryCancel();
    stream->Finish();
  }
  void SendAgain(const std::vector<v1::UsageRecord>& records) {
    auto usage = v1::Usage::NewStub(Channel("gateway"));
    Deadline context(60);
    const auto stream = usage->AppendUsage(&context);
    for (size_t at = 0; at < records.size(); at += 100) {
      v1::UsageBatch batch;
      for (size_t i = at; i < std::min(at + 100, records.size()); ++i) *batch.add_records() = records[i];
      v1::UsageAck ack;
      ASSERT_TRUE(stream->Write(batch) && stream->Read(&ack));
      ASSERT_EQ(ack.rejected_size(), 0) << ack.rejected(0).reason();
      ASSERT_EQ(ack.record_ids_size(), batch.records_size());
    }
    context.TryCancel();
    stream->Finish();
  }

  // What a gateway learns of keys: whether the secret's text still opens, and whether it may.
  void ExpectKey(const v1::CreateKeyResponse& key, bool known, bool revoked,
                 const std::vector<std::string>& known_revoked = {}) {
    auto catalog = v1::Catalog::NewStub(Channel("gateway"));
    Deadline context;
    v1::WatchRequest watch;
    watch.set_gateway_id(NewTimeOrderedId().ToBytes());
    watch.set_gateway_epoch(static_cast<uint64_t>(absl::ToUnixMicros(absl::Now())));
    for (const std::string& id : known_revoked) watch.add_revoked_key_ids(id);
    const auto stream = catalog->WatchKeys(&context, watch);
    v1::KeyEvent event;
    ASSERT_TRUE(stream->Read(&event) && event.has_snapshot());
    const absl::StatusOr<ApiKey> parsed = ParseApiKey(key.secret());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    bool found = false;
    for (const v1::KeyRecord& record : event.snapshot().keys()) {
      if (record.public_id() != key.key().public_id()) continue;
      found = true;
      EXPECT_EQ(record.secret_hmac(), HmacOfSecret(Secret(event.snapshot().pepper()), parsed->secret));
      EXPECT_EQ(record.revoked(), revoked);
    }
    EXPECT_EQ(found, known);
    context.TryCancel();
    stream->Finish();
  }

  // The books of a process that does not run: every acknowledged record in `must` once, and they hold.
  std::set<std::string> Inspect(const std::string& data_dir, const std::set<std::string>& must) {
    std::set<std::string> booked;
    auto store = Store::Open({.path = data_dir + "/billing/gantry.db", .command_log = LogOf(data_dir)});
    EXPECT_TRUE(store.ok()) << store.status();
    if (!store.ok()) return booked;
    EXPECT_TRUE((*store)
                    ->ReadAndWait([&](Database& db) {
                      for (Rows rows = db.Query("SELECT record_id FROM usage_event"); rows.Next();) {
                        EXPECT_TRUE(booked.insert(rows.Text(0)).second) << "booked twice";
                      }
                      size_t lost = 0;
                      for (const std::string& id : must) lost += booked.contains(id) ? 0 : 1;
                      EXPECT_EQ(lost, 0u) << "acknowledged and lost";
                      const v1::AuditReport report = Audit(db);
                      EXPECT_TRUE(report.ok()) << report.DebugString();
                      return absl::OkStatus();
                    })
                    .ok());
    return booked;
  }
  std::string LogOf(const std::string& data_dir) const {
    return data_dir == Dir("disk-c") ? Dir("disk-b/log") : std::string();
  }

  // Load, a backup in its midst, changes after it, and a kill.
  void Disaster() {
    std::thread sender([&] { Send(1 << 20); });
    while (acknowledged_batches_ < 5) std::this_thread::yield();
    backup_ = MakeBackup(Dir("one.backup"));
    const int at_backup = acknowledged_batches_;
    Revoke(revoked_key_);
    new_key_ = AddKey(*Admin(), "demo", "new-key");
    AddMoney(*Admin(), "demo", 7'000'000);
    while (acknowledged_batches_ < at_backup + 20) std::this_thread::yield();
    process_->Kill();
    sender.join();
    fs::remove_all(Dir("disk-a"));
  }
  absl::StatusOr<RestoreReport> RestoreTo(const std::string& data_dir, const std::string& command_log) {
    return Restore({.backup = Dir("one.backup"),
                    .passphrase = passphrase_,
                    .data_dir = data_dir,
                    .command_log = command_log,
                    .now_us = absl::ToUnixMicros(absl::Now())});
  }

  TestIdentities identities_;
  const Secret passphrase_{"the passphrase of the drill"};
  std::unique_ptr<BillingProcess> process_;
  std::mt19937_64 random_{7};
  v1::Party tenant_;
  v1::PlanVersion plan_;
  v1::GrantSliceRequest slice_;
  v1::CreateKeyResponse old_key_, revoked_key_, new_key_;
  BackupManifest backup_;
  std::vector<v1::UsageRecord> sent_;
  std::set<std::string> acknowledged_;
  std::atomic<int> acknowledged_batches_{0};
};

TEST_F(RestoreDrill, WithACommandLogEverythingAcknowledgedComesBack) {
  Disaster();
  const auto report = RestoreTo(Dir("disk-c"), Dir("disk-b/log"));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->complete);
  EXPECT_TRUE(report->audit_ok) << report->audit_failures;
  EXPECT_GT(report->replayed, 0);
  EXPECT_EQ(report->series_mark, "") << "no number can have been lost";
  const size_t booked = Inspect(Dir("disk-c"), acknowledged_).size();
  std::printf("%zu records acknowledged, %zu booked after %lld commits were replayed, 0 lost\n", acknowledged_.size(),
              booked, static_cast<long long>(report->replayed));

  process_ = std::make_unique<BillingProcess>(identities_, Dir("disk-c/billing"), Dir("disk-b/log"));
  ExpectKey(old_key_, true, false);
  ExpectKey(revoked_key_, true, true);
  ExpectKey(new_key_, true, false);
  // A gateway of before is fenced until it starts again; what it has not been told of counts once.
  auto credit = v1::Credit::NewStub(Channel("gateway"));
  v1::GrantSliceResponse granted;
  v1::GrantSliceRequest again = slice_;
  again.set_slice_id(NewTimeOrderedId().ToBytes());
  Deadline c1;
  EXPECT_EQ(credit->GrantSlice(&c1, again, &granted).error_code(), grpc::StatusCode::ABORTED);
  SendAgain(sent_);
  process_->Kill();
  std::set<std::string> all;
  for (const v1::UsageRecord& record : sent_) all.insert(record.record_id());
  EXPECT_EQ(Inspect(Dir("disk-c"), all), all);

  // The log went on: a second loss costs nothing either.
  fs::remove_all(Dir("disk-c"));
  const auto twice = RestoreTo(Dir("disk-c"), Dir("disk-b/log"));
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_EQ(twice->epoch, 3u);
  EXPECT_EQ(Inspect(Dir("disk-c"), all), all);
}

TEST_F(RestoreDrill, WithoutACommandLogTheBackupAndWhatGatewaysHoldComeBack) {
  std::set<std::string> before;
  Send(10);
  before = acknowledged_;
  Disaster();
  const auto report = RestoreTo(Dir("disk-d"), "");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->complete);
  EXPECT_TRUE(report->audit_ok) << report->audit_failures;
  EXPECT_EQ(report->series_mark, "R2");
  const size_t booked = Inspect(Dir("disk-d"), before).size();
  EXPECT_LT(booked, acknowledged_.size()) << "the load after the backup is not in it";
  process_ = std::make_unique<BillingProcess>(identities_, Dir("disk-d/billing"));
  ExpectKey(old_key_, true, false);
  ExpectKey(new_key_, false, false);
  ExpectKey(revoked_key_, true, false);
  ExpectKey(revoked_key_, true, true, {revoked_key_.key().key_id()});  // a gateway that kept running knows it
  ExpectKey(revoked_key_, true, true);
  SendAgain(sent_);
  process_->Kill();
  std::set<std::string> all;
  for (const v1::UsageRecord& record : sent_) all.insert(record.record_id());
  EXPECT_EQ(Inspect(Dir("disk-d"), all), all);
}

}  // namespace
}  // namespace gantry::billing
