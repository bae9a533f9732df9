// Every administrative call, over the socket, made for users: nothing that a user may not do is forgotten.
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <set>

#include "absl/strings/str_cat.h"
#include "billing/people/access.h"
#include "billing/service/billing.h"
#include "billing/testing/admin_calls.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "gantry/v1/notification.grpc.pb.h"
#include "gantry/v1/people.grpc.pb.h"
#include "services/common/allow_list.h"
#include "services/common/rpc_test_util.h"

namespace gantry::billing {
namespace {

// Secrets of the whole house: no user's, whatever its role.
const std::set<std::string> kAdministratorsAlone = {"CreateBackupRequest", "ConfirmBackupRequest",
                                                    "RotateReceiptKeyRequest"};

// The services that identity admin may call of billing, from the allow-list, so that a new one is not left out.
std::vector<const google::protobuf::ServiceDescriptor*> AdminServices() {
  std::vector<const google::protobuf::ServiceDescriptor*> services;
  for (const AllowRule& rule : AllowList()) {
    if (rule.identity != "admin" || rule.server != "billing") continue;
    const std::string name(rule.method.substr(0, rule.method.find('/')));
    const auto* service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    EXPECT_NE(service, nullptr) << name;
    if (service != nullptr) services.push_back(service);
  }
  return services;
}

TEST(AccessRulesTest, EveryRequestHasARuleOrIsTheAdministratorsAlone) {
  int requests = 0;
  for (const auto* service : AdminServices()) {
    for (int i = 0; i < service->method_count(); ++i) {
      const std::string request(service->method(i)->input_type()->name());
      EXPECT_NE(HasAccessRule(request), kAdministratorsAlone.contains(request)) << request;
      ++requests;
    }
  }
  EXPECT_GT(requests, 30);
}

class AccessTest : public testing::Test {
 protected:
  AccessTest() {
    BillingOptions options;
    options.rpc = identities_.ServerOptions("billing");
    options.data_dir = identities_.dir() + "/billing";
    auto billing = Billing::Start(options, nullptr);
    EXPECT_TRUE(billing.ok()) << billing.status();
    billing_ = *std::move(billing);
    channel_ = MakeChannel(billing_->address(), identities_.Get("admin"));
    admin_ = v1::BillingAdmin::NewStub(channel_);
    users_ = v1::UserAdmin::NewStub(channel_);
    AddParty(*admin_, v1::PARTY_KIND_HOUSE, "house");
    AddPlan(*admin_, {1000, 1000, 1000, 1000});
    AddParty(*admin_, v1::PARTY_KIND_TENANT, "acme");
    AddParty(*admin_, v1::PARTY_KIND_TENANT, "other");
  }

  std::string TokenOf(const std::string& party, v1::UserRole role) {
    auto request = Keyed<v1::CreateUserRequest>(absl::StrCat(party, role));
    request.set_party_name(party);
    request.set_email(absl::StrCat("user", role, "@", party, ".example"));
    request.set_role(role);
    const std::string token = Done(*users_, &v1::UserAdmin::Stub::CreateUser, request).token();
    EXPECT_FALSE(token.empty());
    return token;
  }

  // Calls a method with an empty request.
  grpc::Status Call(const google::protobuf::MethodDescriptor* method, const std::string& token) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    context.AddMetadata("gantry-user", token);
    grpc::CompletionQueue queue;
    const std::string path =
        absl::StrCat("/", std::string(method->service()->full_name()), "/", std::string(method->name()));
    auto call = stub.PrepareCall(&context, path, &queue);
    call->StartCall(reinterpret_cast<void*>(1));
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    grpc::Slice empty("");
    call->WriteLast(grpc::ByteBuffer(&empty, 1), grpc::WriteOptions(), reinterpret_cast<void*>(2));
    queue.Next(&tag, &ok);
    grpc::ByteBuffer answer;
    call->Read(&answer, reinterpret_cast<void*>(3));
    queue.Next(&tag, &ok);
    grpc::Status status;
    call->Finish(&status, reinterpret_cast<void*>(4));
    queue.Next(&tag, &ok);
    return status;
  }

  TestIdentities identities_;
  std::unique_ptr<Billing> billing_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::BillingAdmin::Stub> admin_;
  std::unique_ptr<v1::UserAdmin::Stub> users_;
};

TEST_F(AccessTest, ATenantsDeveloperGetsNowhereThatNamesNobodyOfItsOwn) {
  const std::string token = TokenOf("acme", v1::USER_ROLE_DEVELOPER);
  const std::set<std::string> about_nobody = {"ListReceiptRoots", "GetReceiptKeys", "WhoAmI"};
  for (const auto* service : AdminServices()) {
    for (int i = 0; i < service->method_count(); ++i) {
      const grpc::Status status = Call(service->method(i), token);
      if (about_nobody.contains(std::string(service->method(i)->name()))) {
        EXPECT_TRUE(status.ok()) << service->method(i)->name() << ": " << status.error_message();
      } else {
        EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED)
            << service->method(i)->name() << ": " << status.error_message();
      }
    }
  }
}

TEST_F(AccessTest, ATokenThatIsNoneOpensNothing) {
  for (const auto* service : AdminServices()) {
    for (int i = 0; i < service->method_count(); ++i) {
      const grpc::StatusCode code = Call(service->method(i), "gk_user_nobody").error_code();
      EXPECT_TRUE(code == grpc::StatusCode::UNAUTHENTICATED || code == grpc::StatusCode::PERMISSION_DENIED)
          << service->method(i)->name();
    }
  }
}

TEST_F(AccessTest, AUserActsWithinItsPartyAndTheAuditLogNamesIt) {
  const std::string token = TokenOf("acme", v1::USER_ROLE_OWNER);
  const auto make_key = [&](const std::string& party, const std::string& idempotency_key) {
    v1::CreateKeyRequest request;
    request.set_idempotency_key(idempotency_key);
    request.set_party_name(party);
    v1::CreateKeyResponse response;
    grpc::ClientContext context;
    context.AddMetadata("gantry-user", token);
    return admin_->CreateKey(&context, request, &response);
  };
  EXPECT_TRUE(make_key("acme", "one").ok());
  EXPECT_EQ(make_key("other", "two").error_code(), grpc::StatusCode::PERMISSION_DENIED);
  // The administrator's idempotency keys are not the user's: this one made the party.
  EXPECT_TRUE(make_key("acme", "party acme").ok());
}

TEST_F(AccessTest, ASuspendedRightIsGoneWithTheNextCall) {
  TokenOf("acme", v1::USER_ROLE_OWNER);
  const std::string token = TokenOf("acme", v1::USER_ROLE_ADMIN);
  const auto who = [&](v1::WhoAmIResponse* response) {
    grpc::ClientContext context;
    context.AddMetadata("gantry-user", token);
    return users_->WhoAmI(&context, v1::WhoAmIRequest(), response);
  };
  v1::WhoAmIResponse response;
  ASSERT_TRUE(who(&response).ok());
  auto disable = Keyed<v1::DisableUserRequest>("disable");
  disable.set_user_id(response.user().user_id());
  Done(*users_, &v1::UserAdmin::Stub::DisableUser, disable);
  EXPECT_EQ(who(&response).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

}  // namespace
}  // namespace gantry::billing
