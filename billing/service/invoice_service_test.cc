// Invoices over the socket, as the CLI asks for them: idempotency, audit rows, statuses.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "billing/service/billing.h"
#include "billing/testing/admin_calls.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "gantry/v1/closing.grpc.pb.h"
#include "gantry/v1/invoicing.grpc.pb.h"
#include "services/common/ids.h"
#include "services/common/rpc_test_util.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kDayUs = 86'400'000'000;

class InvoiceServiceTest : public testing::Test {
 protected:
  InvoiceServiceTest() {
    BillingOptions options;
    options.rpc = identities_.ServerOptions("billing");
    options.data_dir = identities_.dir() + "/billing";
    options.clock = [this] { return now_us_.load(); };
    options.alerts_every_ms = 100;
    auto billing = Billing::Start(options, nullptr);
    EXPECT_TRUE(billing.ok()) << billing.status();
    billing_ = *std::move(billing);
    const auto admin = MakeChannel(billing_->address(), identities_.Get("admin"));
    admin_ = v1::BillingAdmin::NewStub(admin);
    invoices_ = v1::InvoiceAdmin::NewStub(admin);
    Bootstrap();
  }

  // A house that sells at 20 % tax, and a postpaid tenant with a minimum of 10.00 a month.
  void Bootstrap() {
    AddParty(*admin_, v1::PARTY_KIND_HOUSE, "house");
    AddPlan(*admin_, {100'000, 100'000, 100'000, 100'000}, /*commitment_micro=*/10'000'000);
    AddParty(*admin_, v1::PARTY_KIND_TENANT, "acme", "", /*credit_limit_micro=*/100'000'000);
    v1::SetBillingProfileRequest profile;
    profile.set_idempotency_key("profile");
    profile.mutable_profile()->set_party_name("house");
    profile.mutable_profile()->set_legal_name("House GmbH");
    profile.mutable_profile()->mutable_sells_with()->set_category(v1::TAX_CATEGORY_S);
    profile.mutable_profile()->mutable_sells_with()->set_rate_ppm(200'000);
    profile.mutable_profile()->set_terms_days(10);
    EXPECT_EQ(Done(*invoices_, &v1::InvoiceAdmin::Stub::SetBillingProfile, profile).version(), 1u);
  }

  std::pair<grpc::Status, v1::Invoice> Finalize(const std::string& key, const std::string& period) {
    v1::FinalizeInvoiceRequest request;
    request.set_idempotency_key(key);
    request.set_party_name("acme");
    request.set_period(period);
    return Call(*admin_, &v1::BillingAdmin::Stub::FinalizeInvoice, request);
  }

  // A gateway says what time it is there: with a record that is refused as usage.
  void Report(int64_t wall_us) {
    const auto gateway = v1::Usage::NewStub(MakeChannel(billing_->address(), identities_.Get("gateway")));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    auto stream = gateway->AppendUsage(&context);
    v1::UsageBatch batch;
    batch.set_gateway_id(std::string(16, 'g'));
    batch.add_records()->set_wall_us(static_cast<uint64_t>(wall_us));
    v1::UsageAck ack;
    EXPECT_TRUE(stream->Write(batch) && stream->Read(&ack));
    stream->WritesDone();
    stream->Finish();
  }

  std::atomic<int64_t> now_us_{1'794'312'000'000'000};  // 2026-11-10 12:00 UTC
  TestIdentities identities_;
  std::unique_ptr<Billing> billing_;
  std::unique_ptr<v1::BillingAdmin::Stub> admin_;
  std::unique_ptr<v1::InvoiceAdmin::Stub> invoices_;
};

TEST_F(InvoiceServiceTest, AMonthFromMinimumToPayment) {
  EXPECT_EQ(Finalize("early", "2026-11").first.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  now_us_ += 25 * kDayUs;
  const auto [status, invoice] = Finalize("november", "2026-11");
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(invoice.number(), "G2026-000001");
  EXPECT_EQ(invoice.total_minor(), 1'200);
  EXPECT_EQ(Finalize("november", "2026-11").second.SerializeAsString(), invoice.SerializeAsString());
  EXPECT_EQ(Finalize("november", "2026-10").first.error_code(), grpc::StatusCode::ALREADY_EXISTS) << "other content";

  v1::RecordPaymentRequest payment;
  payment.set_idempotency_key("pay");
  payment.set_party_name("acme");
  payment.set_amount_micro(5'000'000);
  payment.set_method("bank transfer");
  for (int i = 0; i < 2; ++i) {
    const auto paid = Call(*invoices_, &v1::InvoiceAdmin::Stub::RecordPayment, payment);
    ASSERT_TRUE(paid.first.ok()) << paid.first.error_message();
    EXPECT_EQ(paid.second.allocated_micro(), 5'000'000);
  }
  v1::ListInvoicesRequest open;
  open.set_open_only(true);
  const auto list = Call(*invoices_, &v1::InvoiceAdmin::Stub::ListInvoices, open);
  ASSERT_EQ(list.second.invoices_size(), 1);
  EXPECT_EQ(list.second.invoices(0).open_minor(), 700) << "paid once, though it was asked for twice";
  EXPECT_EQ(list.second.invoices(0).due_on(), "2026-12-15");

  v1::VoidInvoiceRequest gone;
  gone.set_idempotency_key("void");
  gone.set_number(invoice.number());
  gone.set_reason("r");
  EXPECT_EQ(Call(*invoices_, &v1::InvoiceAdmin::Stub::VoidInvoice, gone).first.error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  v1::CreateCreditNoteRequest credit;
  credit.set_idempotency_key("credit");
  credit.set_number(invoice.number());
  credit.set_reason("r");
  credit.set_net_minor(100);
  const auto note = Call(*invoices_, &v1::InvoiceAdmin::Stub::CreateCreditNote, credit);
  ASSERT_TRUE(note.first.ok()) << note.first.error_message();
  EXPECT_EQ(note.second.number(), "GC2026-000001");
  v1::GetDocumentRequest document;
  document.set_number("GC2026-000001");
  EXPECT_EQ(Call(*invoices_, &v1::InvoiceAdmin::Stub::GetDocument, document).second.total_minor(), 120);
  document.set_number("GC2026-000002");
  EXPECT_EQ(Call(*invoices_, &v1::InvoiceAdmin::Stub::GetDocument, document).first.error_code(),
            grpc::StatusCode::NOT_FOUND);

  v1::GetStatementRequest statement;
  statement.set_party_name("acme");
  const auto account = Call(*invoices_, &v1::InvoiceAdmin::Stub::GetStatement, statement);
  EXPECT_EQ(account.second.closing_micro(), 12'000'000 - 5'000'000 - 1'200'000);
  const auto audit = Call(*admin_, &v1::BillingAdmin::Stub::Audit, v1::AuditRequest());
  EXPECT_TRUE(audit.second.ok()) << audit.second.DebugString();
}

TEST_F(InvoiceServiceTest, EveryChangeNeedsAnIdempotencyKey) {
  const auto code = [&](auto method, auto request) { return Call(*invoices_, method, request).first.error_code(); };
  using Stub = v1::InvoiceAdmin::Stub;
  for (const grpc::StatusCode found :
       {code(&Stub::SetBillingProfile, v1::SetBillingProfileRequest()),
        code(&Stub::CreateCreditNote, v1::CreateCreditNoteRequest()),
        code(&Stub::VoidInvoice, v1::VoidInvoiceRequest()), code(&Stub::RecordPayment, v1::RecordPaymentRequest()),
        code(&Stub::AllocatePayment, v1::AllocatePaymentRequest()),
        code(&Stub::ReleaseAllocations, v1::ReleaseAllocationsRequest()),
        code(&Stub::RefundPayment, v1::RefundPaymentRequest())}) {
    EXPECT_EQ(found, grpc::StatusCode::INVALID_ARGUMENT);
  }
}

TEST_F(InvoiceServiceTest, ATopUpPaysWhatIsOwedFirst) {
  now_us_ += 25 * kDayUs;
  ASSERT_TRUE(Finalize("november", "2026-11").first.ok());
  AddMoney(*admin_, "acme", 20'000'000);
  v1::ListPaymentsRequest list;
  list.set_party_name("acme");
  const auto payments = Call(*invoices_, &v1::InvoiceAdmin::Stub::ListPayments, list);
  ASSERT_EQ(payments.second.payments_size(), 1);
  EXPECT_EQ(payments.second.payments(0).allocated_micro(), 12'000'000);
  EXPECT_EQ(payments.second.payments(0).method(), "top-up");
}

TEST_F(InvoiceServiceTest, WhatWasHeldPaysByItselfOnceItIsFree) {
  AddMoney(*admin_, "acme", 20'000'000);
  v1::ListPartiesRequest parties;
  const auto listed = Call(*admin_, &v1::BillingAdmin::Stub::ListParties, parties);
  const auto credit = v1::Credit::NewStub(MakeChannel(billing_->address(), identities_.Get("gateway")));
  v1::GrantSliceRequest grant;
  grant.set_slice_id(std::string(16, 's'));
  grant.set_gateway_id(std::string(16, 'g'));
  grant.set_gateway_epoch(1);
  for (const v1::Party& party : listed.second.parties()) {
    if (party.name() == "acme") grant.set_party_id(party.party_id());
  }
  grant.set_wanted_micro(115'000'000);
  grant.set_minimum_micro(115'000'000);
  const auto granted = Call(*credit, &v1::Credit::Stub::GrantSlice, grant);
  ASSERT_TRUE(granted.first.ok()) << granted.first.error_message();
  now_us_ += 25 * kDayUs;
  const auto invoice = Finalize("november", "2026-11");
  ASSERT_TRUE(invoice.first.ok()) << invoice.first.error_message();
  EXPECT_EQ(invoice.second.open_minor(), 700) << "10.00 and tax; of 20.00 and a limit of 100.00, 115.00 are held";
  v1::ReturnSliceRequest back;
  back.set_slice_id(grant.slice_id());
  back.set_close(true);
  ASSERT_TRUE(Call(*credit, &v1::Credit::Stub::ReturnSlice, back).first.ok());
  v1::GetDocumentRequest get;
  get.set_number(invoice.second.number());
  int64_t open = 700;
  for (int i = 0; i < 200 && open > 0; ++i) {
    absl::SleepFor(absl::Milliseconds(50));
    open = Call(*invoices_, &v1::InvoiceAdmin::Stub::GetDocument, get).second.open_minor();
  }
  EXPECT_EQ(open, 0);
}

TEST_F(InvoiceServiceTest, NothingBecomesFinalWhileGatewaysSayAnotherTime) {
  now_us_ += 25 * kDayUs;
  Report(now_us_ - 6 * 60'000'000);
  const grpc::Status refused = Finalize("apart", "2026-11").first;
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(refused.error_message(), HasSubstr("more than 5 minutes from billing's"));
  Report(now_us_);
  EXPECT_TRUE(Finalize("together", "2026-11").first.ok());
}

TEST_F(InvoiceServiceTest, AClosingWaitsWhileGatewaysSayAnotherTime) {
  Report(now_us_ - 6 * 60'000'000);
  const auto closings = v1::ClosingAdmin::NewStub(MakeChannel(billing_->address(), identities_.Get("admin")));
  v1::ClosePartyRequest close;
  close.set_idempotency_key("close");
  close.set_party_name("acme");
  close.set_leftover(v1::LEFTOVER_REFUND);
  close.set_reason("the contract ended");
  ASSERT_TRUE(Call(*closings, &v1::ClosingAdmin::Stub::CloseParty, close).first.ok());
  const auto waits_for = [&](const std::string& part) {
    v1::GetClosingRequest get;
    get.set_party_name("acme");
    std::string waits;
    for (int i = 0; i < 200 && !absl::StrContains(waits, part); ++i) {
      absl::SleepFor(absl::Milliseconds(50));
      waits = Call(*closings, &v1::ClosingAdmin::Stub::GetClosing, get).second.waits_for();
    }
    return waits;
  };
  EXPECT_THAT(waits_for("clocks"), HasSubstr("the clocks of 1 of 1 gateways are more than 5 minutes from billing's"));
  Report(now_us_);
  EXPECT_THAT(waits_for("pay"), HasSubstr("it to pay 12000000")) << "its last invoice: the minimum and its tax";
}

TEST_F(InvoiceServiceTest, RacingClientsGetOneInvoice) {
  now_us_ += 25 * kDayUs;
  for (const bool same_key : {true, false}) {
    std::vector<std::future<std::pair<grpc::Status, v1::Invoice>>> racers;
    for (int i = 0; i < 16; ++i) {
      racers.push_back(std::async(std::launch::async, [this, same_key, i] {
        return Finalize(same_key ? "one key" : absl::StrCat("key ", i), same_key ? "2026-11" : "2026-10");
      }));
    }
    for (auto& racer : racers) {
      const auto [status, invoice] = racer.get();
      EXPECT_TRUE(status.ok()) << status.error_message();
      EXPECT_EQ(invoice.number(), same_key ? "G2026-000001" : "G2026-000002");
    }
  }
}

}  // namespace
}  // namespace gantry::billing
