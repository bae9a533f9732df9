// What parties are told, from the books to a receiver's door.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "billing/outbox/signature.h"
#include "billing/outbox/test_servers.h"
#include "billing/service/billing.h"
#include "billing/testing/admin_calls.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "gantry/v1/notification.grpc.pb.h"
#include "services/common/digest.h"
#include "services/common/rpc_test_util.h"

namespace gantry::billing {
namespace {

using ::testing::HasSubstr;

bool Within(absl::Duration limit, const std::function<bool()>& holds) {
  for (const absl::Time end = absl::Now() + limit; absl::Now() < end; absl::SleepFor(absl::Milliseconds(10))) {
    if (holds()) return true;
  }
  return holds();
}

class NotificationTest : public testing::Test {
 protected:
  void Start(const std::string& smtp = "") {
    BillingOptions options;
    options.rpc = identities_.ServerOptions("billing");
    options.data_dir = identities_.dir() + "/billing";
    options.webhook.private_networks = "127.0.0.0/8";
    options.alerts_every_ms = 20;
    options.witness_deadline_ms = 200;  // ticks every 50 ms
    if (!smtp.empty()) options.smtp = {.server = smtp, .security = "none", .from = "billing@house.example"};
    auto billing = Billing::Start(options, nullptr);
    ASSERT_TRUE(billing.ok()) << billing.status();
    billing_ = *std::move(billing);
    const auto channel = MakeChannel(billing_->address(), identities_.Get("admin"));
    admin_ = v1::BillingAdmin::NewStub(channel);
    notifications_ = v1::NotificationAdmin::NewStub(channel);
    AddParty(*admin_, v1::PARTY_KIND_HOUSE, "house");
  }
  grpc::Status Add(const std::string& target, v1::EndpointSecret* made) {
    auto request = Keyed<v1::AddEndpointRequest>(absl::StrCat("add ", target));
    request.set_party_name("house");
    request.set_target(target);
    grpc::ClientContext context;
    return notifications_->AddEndpoint(&context, request, made);
  }
  void Test(const v1::Endpoint& endpoint) {
    auto request = Keyed<v1::TestEndpointRequest>(absl::StrCat("test ", endpoint.target()));
    request.set_endpoint_id(endpoint.endpoint_id());
    Done(*notifications_, &v1::NotificationAdmin::Stub::TestEndpoint, request);
  }
  v1::ListOutboxResponse Outbox() {
    return Done(*notifications_, &v1::NotificationAdmin::Stub::ListOutbox, v1::ListOutboxRequest());
  }

  TestIdentities identities_;
  std::unique_ptr<Billing> billing_;
  std::unique_ptr<v1::BillingAdmin::Stub> admin_;
  std::unique_ptr<v1::NotificationAdmin::Stub> notifications_;
};

TEST_F(NotificationTest, AWebhookArrivesSignedWithTheSecretThatWasShown) {
  TestHttpServer receiver;
  Start();
  v1::EndpointSecret made;
  ASSERT_TRUE(Add(receiver.url(), &made).ok());
  ASSERT_TRUE(absl::StartsWith(made.secret(), "whsec_"));
  Test(made.endpoint());
  ASSERT_TRUE(Within(absl::Seconds(10), [&] { return !receiver.requests().empty(); }));
  const TestHttpRequest request = receiver.requests()[0];
  // As a receiver checks it.
  const std::string signature = request.headers.at("gantry-signature");
  const std::vector<std::string> parts = absl::StrSplit(signature, ',');
  const std::string time = parts[0].substr(2);
  EXPECT_EQ(parts[1], absl::StrCat("v1=1:", absl::BytesToHexString(HmacSha256(Secret(made.secret()),
                                                                              absl::StrCat(time, ".", request.body)))));
  EXPECT_EQ(nlohmann::json::parse(request.body)["topic"], "test");
  ASSERT_TRUE(Within(absl::Seconds(10), [&] { return Outbox().items(0).state() == v1::OUTBOX_STATE_DELIVERED; }));
}

TEST_F(NotificationTest, MailGoesOverTheServerThatIsConfigured) {
  TestSmtpServer mail({});
  Start(mail.address());
  v1::EndpointSecret made;
  const grpc::Status added = Add("mailto:ops@house.example", &made);
  ASSERT_TRUE(added.ok()) << added.error_message();
  EXPECT_TRUE(made.secret().empty());
  Test(made.endpoint());
  ASSERT_TRUE(Within(absl::Seconds(10), [&] { return !mail.mails().empty(); }));
  EXPECT_EQ(mail.mails()[0].to, "<ops@house.example>");
  EXPECT_THAT(mail.mails()[0].data, HasSubstr("Subject: A test message"));
}

TEST_F(NotificationTest, WithoutAMailServerNobodyIsPromisedMail) {
  Start();
  v1::EndpointSecret made;
  const grpc::Status status = Add("mailto:ops@house.example", &made);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("smtp-server"));
}

TEST_F(NotificationTest, WhatTheBooksSayIsToldByItself) {
  TestHttpServer receiver;
  Start();
  v1::EndpointSecret made;
  ASSERT_TRUE(Add(receiver.url(), &made).ok());
  AddPlan(*admin_, {});
  AddParty(*admin_, v1::PARTY_KIND_TENANT, "acme");
  auto gift = Keyed<v1::TopUpRequest>("gift");
  gift.set_party_name("acme");
  gift.set_amount_micro(5'000'000);
  gift.set_promotional(true);
  gift.set_expires_us(absl::ToUnixMicros(absl::Now() + absl::Hours(12)));
  Done(*admin_, &AdminStub::TopUp, gift);
  // To acme, which has no endpoint: written down, addressed to nobody.
  ASSERT_TRUE(Within(absl::Seconds(10), [&] {
    const v1::ListOutboxResponse list = Outbox();
    return list.items_size() == 1 && list.items(0).topic() == "credit.expiring" &&
           list.items(0).state() == v1::OUTBOX_STATE_UNADDRESSED;
  }));
}

}  // namespace
}  // namespace gantry::billing
