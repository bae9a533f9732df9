#include "services/common/rpc.h"

#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <future>
#include <memory>
#include <set>

#include "absl/strings/str_cat.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "gantry/v1/audit.grpc.pb.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "gantry/v1/closing.grpc.pb.h"
#include "gantry/v1/fleet.grpc.pb.h"
#include "gantry/v1/gateway_admin.grpc.pb.h"
#include "gantry/v1/inference.grpc.pb.h"
#include "gantry/v1/invoicing.grpc.pb.h"
#include "gantry/v1/lease.grpc.pb.h"
#include "gantry/v1/notification.grpc.pb.h"
#include "gantry/v1/people.grpc.pb.h"
#include "gantry/v1/quote.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/allow_list.h"
#include "services/common/rpc_test_util.h"

namespace gantry {
namespace {

using ::testing::HasSubstr;

// What every process could serve, all at once: what is denied must be denied although the handler is there.
struct EveryService {
  v1::Inference::Service inference;
  v1::Fleet::Service fleet;
  v1::Credit::Service credit;
  v1::Usage::Service usage;
  v1::Catalog::Service catalog;
  v1::BillingAdmin::Service admin;
  v1::ReceiptAdmin::Service receipts;
  v1::InvoiceAdmin::Service invoices;
  v1::UserAdmin::Service users;
  v1::NotificationAdmin::Service notifications;
  v1::QuoteAdmin::Service quotes;
  v1::Leases::Service leases;
  v1::GatewayAdmin::Service gateways;
  v1::ClosingAdmin::Service closing;
  v1::AuditAdmin::Service audit;
  v1::Process::Service process;

  std::vector<grpc::Service*> All() {
    return {&inference, &fleet,         &credit, &usage,  &catalog,  &admin,   &receipts, &invoices,
            &users,     &notifications, &quotes, &leases, &gateways, &closing, &audit,    &process};
  }
};

// "/gantry.v1.Fleet/Attach" of every method of every service of the contracts.
std::vector<std::string> EveryMethod() {
  std::vector<std::string> methods;
  for (const google::protobuf::FileDescriptor* file :
       {v1::GenerateStart::descriptor()->file(), v1::WorkerReport::descriptor()->file(),
        v1::UsageRecord::descriptor()->file(), v1::StatusRequest::descriptor()->file(),
        v1::Invoice::descriptor()->file(), v1::User::descriptor()->file(), v1::Endpoint::descriptor()->file(),
        v1::Quote::descriptor()->file(), v1::Hello::descriptor()->file(), v1::GatewayStatus::descriptor()->file(),
        v1::Closing::descriptor()->file(), v1::AuditState::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        methods.push_back(absl::StrCat("/", file->service(s)->full_name(), "/", file->service(s)->method(m)->name()));
      }
    }
  }
  return methods;
}

grpc::Status CallRaw(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                     const std::multimap<std::string, std::string>& metadata = {}) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  context.set_wait_for_ready(true);
  for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
  grpc::ByteBuffer request, response;
  grpc::Slice empty("", 0);
  request = grpc::ByteBuffer(&empty, 1);
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, method, grpc::StubOptions(), &request, &response,
                 [&done](const grpc::Status& status) { done.set_value(status); });
  return done.get_future().get();
}

// The table of who may call what, written a second time and in another form.
std::set<std::string> Expected(const std::string& server, const std::string& identity) {
  std::set<std::string> out;
  auto add = [&](const std::string& service, std::initializer_list<const char*> methods) {
    for (const char* method : methods) out.insert(absl::StrCat("/gantry.v1.", service, "/", method));
  };
  if (identity == "admin") {
    add("Process", {"Status", "Drain"});
    if (server == "billing") {
      add("BillingAdmin", {"CreateParty",
                           "ListParties",
                           "SetPartyStatus",
                           "CreateKey",
                           "ListKeys",
                           "RevokeKey",
                           "RotateKey",
                           "PublishPlanVersion",
                           "ListPlanVersions",
                           "PreviewPrice",
                           "DiffPlanVersions",
                           "Subscribe",
                           "TopUp",
                           "GetBalance",
                           "QueryUsage",
                           "CorrectUsage",
                           "MarginReport",
                           "GetInvoice",
                           "FinalizeInvoice",
                           "Audit",
                           "CreateBackup",
                           "ConfirmBackup"});
      add("AuditAdmin", {"GetAuditState", "Unpark"});
      add("InvoiceAdmin",
          {"SetBillingProfile", "GetBillingProfile", "GetDocument", "ListInvoices", "CreateCreditNote", "VoidInvoice",
           "RecordPayment", "ListPayments", "AllocatePayment", "ReleaseAllocations", "RefundPayment", "GetStatement"});
      add("UserAdmin", {"CreateUser", "ListUsers", "SetUserRole", "DisableUser", "RotateUserToken", "WhoAmI"});
      add("NotificationAdmin", {"AddEndpoint", "ListEndpoints", "RemoveEndpoint", "RotateEndpointSecret",
                                "TestEndpoint", "ListOutbox", "RetryOutbox"});
      add("QuoteAdmin", {"DraftQuotes", "GetQuote", "ListQuotes", "SendQuote", "AcceptQuote", "WithdrawQuote"});
      add("ReceiptAdmin", {"GetReceipt", "GetReceiptProof", "ListReceiptRoots", "GetReceiptKeys", "RotateReceiptKey"});
      add("ClosingAdmin", {"CloseParty", "GetClosing"});
      add("GatewayAdmin", {"ListGateways", "ForgetGateway"});
    }
  }
  if (identity == "worker" && server == "router") add("Fleet", {"Attach"});
  if (identity == "worker" && server == "billing") add("Usage", {"AppendWitness"});
  if (identity == "gateway" && server == "router") add("Inference", {"Generate", "GetBlob", "ListModels"});
  if (identity == "gateway" && server == "billing") {
    add("Credit", {"GrantSlice", "ReturnSlice", "Reserve", "ExtendHold", "SettleHold", "VoidHold"});
    add("Leases", {"Attach"});
    add("Usage", {"AppendUsage"});
    add("Catalog", {"WatchKeys", "WatchPrices"});
  }
  if (identity == "router" && server == "worker") add("Inference", {"Generate", "GetBlob", "ListModels"});
  return out;
}

TEST(RpcAllowListTest, EachIdentityReachesItsMethodsAndNoOther) {
  TestIdentities identities;
  std::vector<std::string> methods = EveryMethod();
  EXPECT_EQ(methods.size(), 81u);
  for (const char* server_name : {"billing", "router", "worker", "gateway"}) {
    EveryService services;
    auto server = RpcServer::Start(identities.ServerOptions(server_name), services.All());
    ASSERT_TRUE(server.ok()) << server.status();
    for (const char* identity : {"gateway", "router", "worker", "admin"}) {
      auto channel = MakeChannel((*server)->address(), identities.Get(identity));
      std::set<std::string> expected = Expected(server_name, identity);
      for (const std::string& method : methods) {
        grpc::Status status = CallRaw(channel, method);
        if (expected.count(method) > 0) {
          // The bare services answer every call UNIMPLEMENTED: the handler was reached.
          EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED)
              << identity << " " << method << " of " << server_name << ": " << status.error_message();
        } else {
          EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED)
              << identity << " " << method << " of " << server_name << ": " << status.error_message();
          EXPECT_THAT(status.error_message(), HasSubstr(method));
        }
      }
    }
  }
}

TEST(RpcAllowListTest, UnknownMethodsAreDeniedToo) {
  TestIdentities identities;
  EveryService services;
  auto server = RpcServer::Start(identities.ServerOptions("billing"), services.All());
  ASSERT_TRUE(server.ok()) << server.status();
  auto channel = MakeChannel((*server)->address(), identities.Get("admin"));
  for (const char* path : {"/gantry.v1.BillingAdmin2/X", "/grpc.health.v1.Health/Check", "/gantry.v1.Process", "/",
                           "/gantry.v1.Process/Status/x", "/gantry.v1.ProcessX/Status"}) {
    EXPECT_EQ(CallRaw(channel, path).error_code(), grpc::StatusCode::PERMISSION_DENIED) << path;
  }
}

TEST(RpcIdentityTest, WithoutAValidTokenEveryMethodIsUnauthenticated) {
  TestIdentities identities;
  EveryService services;
  auto server = RpcServer::Start(identities.ServerOptions("router"), services.All());
  ASSERT_TRUE(server.ok()) << server.status();
  std::string good(identities.Get("gateway").token.Reveal());
  struct Case {
    const char* what;
    std::string name;
    std::string token;
  };
  for (const Case& c : {Case{"wrong token", "gateway", std::string(64, '0')}, Case{"empty token", "gateway", ""},
                        Case{"token of another identity", "worker", good}, Case{"unknown identity", "root", good},
                        Case{"token cut short", "gateway", good.substr(0, 63)}}) {
    auto channel = MakeChannel((*server)->address(), Identity{c.name, Secret(c.token), {}});
    for (const std::string& method : EveryMethod()) {
      EXPECT_EQ(CallRaw(channel, method).error_code(), grpc::StatusCode::UNAUTHENTICATED) << c.what << " " << method;
    }
  }
  auto anonymous = grpc::CreateChannel((*server)->address(), grpc::experimental::LocalCredentials(UDS));
  EXPECT_EQ(CallRaw(anonymous, "/gantry.v1.Inference/ListModels").error_code(), grpc::StatusCode::UNAUTHENTICATED);
  // A second claim beside the good one spoils it.
  auto twice = MakeChannel((*server)->address(), identities.Get("gateway"));
  EXPECT_EQ(CallRaw(twice, "/gantry.v1.Inference/ListModels", {{"gantry-identity", "admin"}}).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
}

TEST(RpcIdentityTest, HandlersNeverSeeTokens) {
  struct Looking final : v1::Process::Service {
    std::string seen;
    grpc::Status Status(grpc::ServerContext* context, const v1::StatusRequest*, v1::StatusResponse*) override {
      for (const auto& [key, value] : context->client_metadata())
        absl::StrAppend(&seen, std::string(key.data(), key.size()), " ");
      return grpc::Status::OK;
    }
  } service;
  TestIdentities identities;
  auto server = RpcServer::Start(identities.ServerOptions("router"), {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_TRUE(CallRaw(MakeChannel((*server)->address(), identities.Get("admin")), "/gantry.v1.Process/Status").ok());
  EXPECT_THAT(service.seen, ::testing::Not(HasSubstr("gantry-")));
}

TEST(RpcMutualTlsTest, IdentityComesFromTheCertificate) {
  TestIdentities identities;
  EveryService services;
  RpcServerOptions options{.process = "router", .listen = "127.0.0.1:0", .tls = identities.MakeTls("router")};
  auto server = RpcServer::Start(options, services.All());
  ASSERT_TRUE(server.ok()) << server.status();
  for (const char* identity : {"gateway", "router", "worker", "admin"}) {
    Identity caller = identities.Get(identity);
    caller.tls = identities.MakeTls(identity);
    auto channel = MakeChannel((*server)->address(), caller);
    std::set<std::string> expected = Expected("router", identity);
    for (const std::string& method : EveryMethod()) {
      EXPECT_EQ(CallRaw(channel, method).error_code(),
                expected.count(method) > 0 ? grpc::StatusCode::UNIMPLEMENTED : grpc::StatusCode::PERMISSION_DENIED)
          << identity << " " << method;
    }
  }
  Identity stranger{"gateway", Secret("x"), identities.MakeTls("stranger")};
  EXPECT_EQ(CallRaw(MakeChannel((*server)->address(), stranger), "/gantry.v1.Inference/ListModels").error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
}

TEST(RpcMutualTlsTest, ACertificateOfAnotherAuthorityDoesNotConnect) {
  TestIdentities identities, others;
  EveryService services;
  RpcServerOptions options{.process = "router", .listen = "127.0.0.1:0", .tls = identities.MakeTls("router")};
  auto server = RpcServer::Start(options, services.All());
  ASSERT_TRUE(server.ok()) << server.status();
  TlsFiles forged = others.MakeTls("gateway");
  forged.authority = identities.MakeTls("gateway").authority;
  auto channel = MakeChannel((*server)->address(), Identity{"gateway", Secret(), forged});
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(2));
  v1::ListModelsResponse response;
  grpc::Status status = v1::Inference::NewStub(channel)->ListModels(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
}

TEST(RpcServerTest, TheSocketIsReadableByItsOwnerOnly) {
  TestIdentities identities;
  EveryService services;
  auto server = RpcServer::Start(identities.ServerOptions("router"), services.All());
  ASSERT_TRUE(server.ok()) << server.status();
  struct stat info {};
  ASSERT_EQ(stat((identities.dir() + "/router.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(RpcServerTest, ASecondServerOnTheSameAddressIsRefused) {
  TestIdentities identities;
  EveryService services;
  auto first = RpcServer::Start(identities.ServerOptions("router"), services.All());
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = RpcServer::Start(identities.ServerOptions("router"), services.All());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(second.status().message(), HasSubstr("router.sock"));
  (*first)->Shutdown(absl::Seconds(1));
  auto third = RpcServer::Start(identities.ServerOptions("router"), services.All());
  EXPECT_TRUE(third.ok()) << third.status();
}

TEST(RpcServerTest, ASocketLeftByACrashIsReplaced) {
  TestIdentities identities;
  EveryService services;
  std::string path = identities.dir() + "/router.sock";
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(fd);
  auto server = RpcServer::Start(identities.ServerOptions("router"), services.All());
  EXPECT_TRUE(server.ok()) << server.status();
}

TEST(RpcServerTest, BadAddressesAreNamed) {
  TestIdentities identities;
  EveryService services;
  struct Case {
    std::string listen;
    const char* message;
  };
  for (const Case& c :
       {Case{"nonsense", "expected unix:/path or host:port"}, Case{"unix:relative", "absolute path"},
        Case{"unix:/tmp/" + std::string(120, 'x'), "at most 107"}, Case{"127.0.0.1:0", "certificate is not set"},
        Case{"unix:/nonexistent/dir/x.sock", "cannot listen there"}}) {
    RpcServerOptions options = identities.ServerOptions("router");
    options.listen = c.listen;
    auto server = RpcServer::Start(options, services.All());
    EXPECT_FALSE(server.ok());
    EXPECT_THAT(std::string(server.status().message()), HasSubstr(c.message));
  }
}

TEST(RpcServerTest, MessagesBeyondTheLimitAreRefused) {
  struct Echo final : v1::Process::Service {
    grpc::Status Status(grpc::ServerContext*, const v1::StatusRequest*, v1::StatusResponse* response) override {
      response->set_process(std::string(kMaxMessageBytes + 1, 'x'));
      return grpc::Status::OK;
    }
  } service;
  TestIdentities identities;
  auto server = RpcServer::Start(identities.ServerOptions("router"), {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  grpc::Status status =
      CallRaw(MakeChannel((*server)->address(), identities.Get("admin")), "/gantry.v1.Process/Status");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace gantry
