// The process over its socket, as gateways, workers and administrators meet it.
#include "billing/service/billing.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "billing/parties/parking.h"
#include "billing/receipt/verify.h"
#include "billing/store/store.h"
#include "billing/testing/admin_calls.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "gantry/v1/audit.grpc.pb.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "services/common/api_key.h"
#include "services/common/ids.h"
#include "services/common/rpc_test_util.h"

namespace gantry::billing {
namespace {

class BillingTest : public testing::Test {
 protected:
  BillingTest() {
    Start();
    admin_ = v1::BillingAdmin::NewStub(MakeChannel(address_, identities_.Get("admin")));
    auto gateway = MakeChannel(address_, identities_.Get("gateway"));
    catalog_ = v1::Catalog::NewStub(gateway);
    credit_ = v1::Credit::NewStub(gateway);
    usage_ = v1::Usage::NewStub(gateway);
    worker_ = v1::Usage::NewStub(MakeChannel(address_, identities_.Get("worker")));
    Bootstrap();
  }

  void Start() {
    BillingOptions options;
    options.rpc = identities_.ServerOptions("billing");
    options.data_dir = identities_.dir() + "/billing";
    options.witness_deadline_ms = 200;
    auto billing = Billing::Start(options, nullptr);
    ASSERT_TRUE(billing.ok()) << billing.status();
    billing_ = *std::move(billing);
    address_ = billing_->address();
  }

  void Bootstrap() {
    AddParty(*admin_, v1::PARTY_KIND_HOUSE, "house");
    plan_ = AddPlan(*admin_, {100'000, 200'000, 300'000, 400'000});
    tenant_ = AddParty(*admin_, v1::PARTY_KIND_TENANT, "demo");
    EXPECT_EQ(AddMoney(*admin_, "demo", 10'000'000).available_micro(), 10'000'000);
  }

  v1::CreateKeyResponse CreateKey(const std::string& idempotency_key) {
    return AddKey(*admin_, "demo", idempotency_key);
  }

  std::string Grant(int64_t micro) {
    v1::GrantSliceRequest request;
    request.set_slice_id(NewTimeOrderedId().ToBytes());
    request.set_gateway_id(gateway_id_);
    request.set_gateway_epoch(1);
    request.set_party_id(tenant_.party_id());
    request.set_wanted_micro(micro);
    request.set_minimum_micro(micro);
    Done(*credit_, &v1::Credit::Stub::GrantSlice, request);
    return request.slice_id();
  }

  v1::UsageRecord Record(const std::string& slice, uint64_t output) {
    v1::UsageRecord record;
    record.set_record_id(NewTimeOrderedId().ToBytes());
    record.set_request_id(NewTimeOrderedId().ToBytes());
    record.set_party_id(tenant_.party_id());
    record.set_key_id(NewTimeOrderedId().ToBytes());
    record.set_slice_id(slice);
    record.set_model("m");
    record.set_plan_version_id(plan_.plan_version_id());
    record.set_outcome(v1::USAGE_OUTCOME_COMPLETED);
    record.set_output_tokens(output);
    record.add_sequences()->set_attempts(1);
    return record;
  }

  v1::AuditReport Audit() { return Done(*admin_, &AdminStub::Audit, v1::AuditRequest()); }

  TestIdentities identities_;
  std::unique_ptr<Billing> billing_;
  std::string address_;
  std::unique_ptr<v1::BillingAdmin::Stub> admin_;
  std::unique_ptr<v1::Catalog::Stub> catalog_;
  std::unique_ptr<v1::Credit::Stub> credit_;
  std::unique_ptr<v1::Usage::Stub> usage_, worker_;
  v1::PlanVersion plan_;
  v1::Party tenant_;
  const std::string gateway_id_ = NewTimeOrderedId().ToBytes();
};

TEST_F(BillingTest, TheSecretIsShownOnce) {
  const v1::CreateKeyResponse first = CreateKey("k"), again = CreateKey("k");
  EXPECT_TRUE(ParseApiKey(first.secret()).ok());
  EXPECT_EQ(again.secret(), "");
  EXPECT_EQ(again.key().public_id(), first.key().public_id());
}

TEST_F(BillingTest, GatewaysSeeKeysComeAndGoWithinASecond) {
  const v1::CreateKeyResponse before = CreateKey("before");
  v1::WatchRequest watch;
  watch.set_gateway_id(gateway_id_);
  watch.set_gateway_epoch(1);
  Deadline context;
  auto stream = catalog_->WatchKeys(&context, watch);
  v1::KeyEvent event;
  ASSERT_TRUE(stream->Read(&event));
  ASSERT_TRUE(event.has_snapshot());
  EXPECT_EQ(event.snapshot().pepper().size(), 32u);
  ASSERT_EQ(event.snapshot().keys_size(), 1);
  const uint64_t sequence = event.sequence();
  absl::StatusOr<ApiKey> parsed = ParseApiKey(before.secret());
  EXPECT_EQ(event.snapshot().keys(0).secret_hmac(), HmacOfSecret(Secret(event.snapshot().pepper()), parsed->secret));

  auto next_change = [&] {
    do {
      if (!stream->Read(&event)) return false;
    } while (event.has_heartbeat());
    return true;
  };
  const v1::CreateKeyResponse after = CreateKey("after");
  ASSERT_TRUE(next_change());
  EXPECT_EQ(event.upsert().public_id(), after.key().public_id());
  EXPECT_EQ(event.sequence(), sequence + 1);

  auto revoke = Keyed<v1::RevokeKeyRequest>("revoke");
  revoke.set_public_id(before.key().public_id());
  const auto start = std::chrono::steady_clock::now();
  Done(*admin_, &AdminStub::RevokeKey, revoke);
  ASSERT_TRUE(next_change());
  EXPECT_TRUE(event.upsert().revoked());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  EXPECT_EQ(event.sequence(), sequence + 2);
  ASSERT_TRUE(stream->Read(&event));
  EXPECT_TRUE(event.has_heartbeat());
  context.TryCancel();
}

TEST_F(BillingTest, NewPricesReachGatewaysAndRunningOnesStay) {
  v1::WatchRequest watch;
  watch.set_gateway_id(gateway_id_);
  Deadline context;
  auto stream = catalog_->WatchPrices(&context, watch);
  v1::PriceEvent event;
  ASSERT_TRUE(stream->Read(&event));
  ASSERT_EQ(event.snapshot().tenants_size(), 1);
  EXPECT_EQ(event.snapshot().tenants(0).plan_version_id(), plan_.plan_version_id());
  auto request = Keyed<v1::PublishPlanVersionRequest>("plan 2");
  request.set_plan("standard");
  request.set_currency("EUR");
  *request.mutable_lines() = plan_.lines();
  request.mutable_lines(0)->set_price_micro_per_m(1);
  const v1::PlanVersion second = Done(*admin_, &AdminStub::PublishPlanVersion, request);
  // The first version may be told again: it took effect a moment ago.
  do {
    ASSERT_TRUE(stream->Read(&event));
  } while (event.has_heartbeat() || event.upsert().plan_version_id() == plan_.plan_version_id());
  EXPECT_EQ(event.upsert().plan_version_id(), second.plan_version_id());
  context.TryCancel();

  // A request admitted before is rated as admitted.
  v1::UsageRecord record = Record(Grant(1'000'000), 1000);
  v1::UsageBatch batch;
  *batch.add_records() = record;
  Deadline c3;
  auto append = usage_->AppendUsage(&c3);
  ASSERT_TRUE(append->Write(batch));
  v1::UsageAck ack;
  ASSERT_TRUE(append->Read(&ack));
  EXPECT_EQ(ack.record_ids(0), record.record_id());
  append->WritesDone();
  EXPECT_TRUE(append->Finish().ok());
  v1::QueryUsageRequest query;
  query.set_party_name("demo");
  const v1::QueryUsageResponse usage = Done(*admin_, &AdminStub::QueryUsage, query);
  // 1000 output tokens at 300,000 and one request at 400,000 per million.
  EXPECT_EQ(usage.rows(0).amount_pico(), 1000ll * 300'000 + 400'000);
}

TEST_F(BillingTest, ItemsAreOpenUntilBothWitnessesCameOrTheDeadlinePassed) {
  const std::string slice = Grant(1'000'000);
  v1::UsageRecord record = Record(slice, 10), lonely = Record(slice, 20);
  v1::UsageBatch batch;
  *batch.add_records() = record;
  *batch.add_records() = lonely;
  Deadline c1;
  auto append = usage_->AppendUsage(&c1);
  v1::UsageAck ack;
  ASSERT_TRUE(append->Write(batch) && append->Read(&ack));
  EXPECT_EQ(ack.record_ids_size(), 2);
  v1::WitnessBatch witnesses;
  witnesses.set_worker_id(std::string(16, 'w'));
  v1::WitnessRecord* witness = witnesses.add_records();
  witness->set_record_id(NewTimeOrderedId().ToBytes());
  witness->set_request_id(record.request_id());
  witness->set_attempt(1);
  witness->set_to_index(10);
  Deadline c2;
  auto testify = worker_->AppendWitness(&c2);
  ASSERT_TRUE(testify->Write(witnesses) && testify->Read(&ack));
  EXPECT_EQ(ack.record_ids_size(), 1);
  for (int i = 0; i < 100 && Audit().open_items() > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  v1::AuditReport report = Audit();
  EXPECT_TRUE(report.ok()) << report.DebugString();
  EXPECT_EQ(report.open_items(), 0u);
  EXPECT_EQ(report.checks(report.checks_size() - 1).detail(),
            "2 requests, 0 wait, 1 without the worker's count, 0 without the gateway's (not billed)");
  c1.TryCancel();
  c2.TryCancel();
}

TEST_F(BillingTest, ReceiptsOfARequestAreSignedAndChecked) {
  v1::UsageRecord record = Record(Grant(1'000'000), 10);
  record.set_prompt_digest(std::string(32, 'p'));
  v1::UsageBatch batch;
  *batch.add_records() = record;
  *batch.add_records() = record;
  batch.mutable_records(1)->set_record_id(NewTimeOrderedId().ToBytes());
  batch.mutable_records(1)->set_request_id(NewTimeOrderedId().ToBytes());
  batch.mutable_records(1)->set_output_digest("short");
  Deadline c1;
  auto append = usage_->AppendUsage(&c1);
  v1::UsageAck ack;
  ASSERT_TRUE(append->Write(batch) && append->Read(&ack));
  EXPECT_EQ(ack.record_ids_size(), 1);
  ASSERT_EQ(ack.rejected_size(), 1);
  EXPECT_EQ(ack.rejected(0).reason(), "prompt_digest, output_digest: expected 32 bytes or nothing");
  c1.TryCancel();

  auto receipts = v1::ReceiptAdmin::NewStub(MakeChannel(address_, identities_.Get("admin")));
  const auto keys = [&] {
    const auto response = Done(*receipts, &v1::ReceiptAdmin::Stub::GetReceiptKeys, v1::GetReceiptKeysRequest());
    std::vector<PublicReceiptKey> list;
    for (const v1::ReceiptKey& key : response.keys()) {
      list.push_back({key.key_id(), key.public_key(), key.created_us(), key.endorsed_by(), key.endorsement()});
    }
    return ReceiptKeys::Parse(ReceiptKeysFile(list));
  };
  v1::GetReceiptRequest request;
  request.set_request_id(record.request_id());
  request.set_party_name("demo");
  v1::GetReceiptResponse response;
  Deadline c2;
  const grpc::Status got = receipts->GetReceipt(&c2, request, &response);
  ASSERT_TRUE(got.ok()) << got.error_message();
  ASSERT_EQ(response.documents_size(), 1);
  ASSERT_TRUE(keys().ok()) << keys().status();
  const auto lines = VerifyReceipts(response.documents(0), *keys());
  ASSERT_TRUE(lines.ok()) << lines.status();
  EXPECT_EQ(lines->front().receipt["prompt_digest"], absl::BytesToHexString(std::string(32, 'p')));
  EXPECT_EQ(lines->front().receipt["cost_pico"], absl::StrCat(10 * 300'000 + 400'000));

  v1::RotateReceiptKeyRequest rotate;
  rotate.set_idempotency_key("rotate");
  v1::ReceiptKey second, again;
  Deadline c3, c4, c5, c6, c7, c8;
  ASSERT_TRUE(receipts->RotateReceiptKey(&c3, rotate, &second).ok());
  ASSERT_TRUE(receipts->RotateReceiptKey(&c4, rotate, &again).ok());
  EXPECT_EQ(second.key_id(), again.key_id());
  EXPECT_EQ(keys()->size(), 2u);
  const std::string before = response.documents(0);
  ASSERT_TRUE(receipts->GetReceipt(&c5, request, &response).ok());
  EXPECT_EQ(response.documents(0), before);

  EXPECT_EQ(receipts->GetReceiptProof(&c6, request, &response).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  request.set_party_name("house");
  EXPECT_EQ(receipts->GetReceipt(&c7, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
  request.set_request_id("x");
  EXPECT_EQ(receipts->GetReceipt(&c8, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(BillingTest, ErrorsReachTheCallerWithTheirReason) {
  auto request = Keyed<v1::TopUpRequest>("x");
  request.set_party_name("nobody");
  request.set_amount_micro(1);
  const grpc::Status status = Call(*admin_, &AdminStub::TopUp, request).first;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "no party named `nobody`");
  request.set_amount_micro(0);
  EXPECT_EQ(Call(*admin_, &AdminStub::TopUp, request).first.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(BillingTest, AParkedPartyIsToldAndReleasedOverRpc) {
  billing_.reset();
  {
    auto store = Store::Open({.path = identities_.dir() + "/billing/gantry.db"});
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_TRUE((*store)
                    ->WriteAndWait([](Database& db) -> absl::Status {
                      absl::StatusOr<PartyRow> party = PartyByName(db, "demo");
                      if (!party.ok()) return party.status();
                      Park(db, party->party_no, "account 2", "debits 1, credits 2", 7);
                      return absl::OkStatus();
                    })
                    .ok());
  }
  Start();
  auto audit = v1::AuditAdmin::NewStub(MakeChannel(address_, identities_.Get("admin")));
  v1::AuditState state;
  Deadline c1, c2, c3, c4, c5;
  ASSERT_TRUE(audit->GetAuditState(&c1, {}, &state).ok());
  ASSERT_EQ(state.parked_size(), 1);
  EXPECT_EQ(state.parked(0).party_name(), "demo");
  EXPECT_EQ(state.parked(0).reason(), "account 2: debits 1, credits 2");
  EXPECT_EQ(state.trouble(), "");
  v1::UnparkRequest request;
  request.set_idempotency_key("unpark");
  request.set_party_name("demo");
  v1::UnparkResponse released;
  EXPECT_EQ(audit->Unpark(&c2, request, &released).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << "no reason";
  request.set_reason("ticket 7");
  ASSERT_TRUE(audit->Unpark(&c3, request, &released).ok());
  ASSERT_TRUE(audit->Unpark(&c4, request, &released).ok()) << "a repeat is answered as before";
  ASSERT_TRUE(audit->GetAuditState(&c5, {}, &state).ok());
  EXPECT_EQ(state.parked_size(), 0);
}

TEST_F(BillingTest, EverythingIsThereAfterARestart) {
  Grant(1'000'000);
  billing_.reset();
  Start();
  v1::GetBalanceRequest request;
  request.set_party_name("demo");
  const v1::Balance balance = Done(*admin_, &AdminStub::GetBalance, request);
  EXPECT_EQ(balance.held_micro(), 1'000'000);
  EXPECT_EQ(balance.available_micro(), 9'000'000);
}

}  // namespace
}  // namespace gantry::billing
