// A real billing in this process, and gateways without HTTP: everything that decides about money and writes it down,
// over real sockets. For tests of what several gateways do to one balance.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "billing/service/billing.h"
#include "gantry/v1/admin.grpc.pb.h"
#include "gantry/v1/gateway_admin.grpc.pb.h"
#include "gateway/admission/admission.h"
#include "gateway/clients/billing_client.h"
#include "gateway/clients/lease_line.h"
#include "gateway/metering/usage_journal.h"
#include "services/common/rpc_test_util.h"

namespace gantry::testing {

// A house whose plan costs one micro-unit a token of every class, and one tenant "demo".
class CreditRig {
 public:
  struct Times {
    int64_t witness_deadline_ms = 900'000;
    int64_t longest_request_ms = 3'600'000;
  };
  explicit CreditRig(int64_t balance_micro) : CreditRig(balance_micro, Times()) {}
  CreditRig(int64_t balance_micro, Times times);
  ~CreditRig();

  const TestIdentities& identities() const { return identities_; }
  std::string address() const { return identities_.Socket("billing"); }
  void StartBilling();
  void StopBilling();

  // Another tenant, of the house or of a reseller, who sells at what it pays itself.
  void NewReseller(const std::string& name, int64_t balance_micro);
  void NewTenant(const std::string& name, int64_t balance_micro, const std::string& parent);
  // A key of the tenant (party_name of the request; "demo" when empty), as a request brings it.
  std::string NewKey(v1::CreateKeyRequest request = {});
  v1::Key FindKey(const std::string& secret);
  // The secret of the key that comes after.
  std::string Rotate(const std::string& secret, uint64_t overlap_s);
  void Revoke(const std::string& secret);
  v1::Balance Balance(const std::string& party = "demo");
  v1::AuditReport Audit();
  // What all usage of the tenant costs, whoever paid for it.
  int64_t UsageMicro();
  v1::BillingAdmin::Stub& admin() { return *admin_; }
  v1::GatewayAdmin::Stub& gateways() { return *gateways_; }

 private:
  const Times times_;
  TestIdentities identities_;
  std::unique_ptr<billing::Billing> billing_;
  std::unique_ptr<v1::BillingAdmin::Stub> admin_;
  std::unique_ptr<v1::GatewayAdmin::Stub> gateways_;
  v1::PlanVersion plan_;
  int next_ = 0;
};

class GatewayRig {
 public:
  // `name`: of its state directory; the same name again is the same gateway, started anew.
  GatewayRig(CreditRig* rig, const std::string& name, int64_t slice_micro);
  // Dies without giving anything back, unless Leave was called.
  ~GatewayRig();
  // As a drained gateway does: records, slices, good-bye. False: not all came through in 10 s.
  bool Leave();
  // Waits until keys, prices and windows are known.
  void WaitReady();

  void WaitForKey(const std::string& secret);

  // A request of 100 prompt tokens that may give `max_tokens`. What the gateway waits for is waited for.
  std::variant<std::unique_ptr<gateway::Permit>, gateway::Refusal> Admit(const std::string& key, uint64_t max_tokens);
  // Admits, serves `output` tokens (extending as a stream would) and ends. The refusal's name, or "" when it was
  // served.
  std::string Serve(const std::string& key, uint64_t max_tokens, uint64_t output);

  gateway::CreditBook& book() { return *book_; }
  // Times that a request waited for permits.
  int64_t permit_requests() const { return permit_requests_; }
  const Id16& id() const { return id_; }

 private:
  Id16 id_;
  std::unique_ptr<gateway::CreditClient> client_;
  gateway::KeyTable keys_;
  gateway::PriceTable prices_;
  std::shared_ptr<gateway::UsageJournal> journal_;
  std::shared_ptr<gateway::CreditBook> book_;
  std::shared_ptr<gateway::Admission> admission_;
  std::shared_ptr<gateway::LeaseLine> leases_;
  std::unique_ptr<gateway::BillingStreams> streams_;
  std::atomic<int64_t> permit_requests_{0};
  absl::Notification stop_;
  std::thread ticker_;
};

}  // namespace gantry::testing
