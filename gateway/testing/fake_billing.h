// A billing service for tests: Credit, Usage, Catalog and Leases (one gateway, alone) in memory, with what the real one
// promises to a gateway, and a list of every promise that the gateway has broken.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gantry/v1/billing.grpc.pb.h"
#include "gantry/v1/lease.grpc.pb.h"
#include "services/common/api_key.h"
#include "services/common/ids.h"
#include "services/common/rpc_test_util.h"

namespace gantry::gateway {

struct FakeKeyOptions {
  std::vector<std::string> scopes, models, cidrs;
  int64_t expires_us = 0;
  uint32_t requests_per_minute = 0;
  uint64_t tokens_per_minute = 0;
  uint32_t concurrency = 0;
  int64_t budget_micro = 0;
};

class FakeBilling final {
 public:
  // Listens on the identities' socket "billing".
  explicit FakeBilling(const TestIdentities& identities);
  ~FakeBilling();
  std::string address() const { return identities_.Socket("billing"); }

  // Prices of a tenant: input 200,000, cached input 50,000, output 800,000 micro-units per million tokens.
  Id16 AddTenant(const std::string& name, int64_t balance_micro);
  void SetStatus(const Id16& party, v1::PartyStatus status);
  // The whole key, as a tenant sends it.
  std::string AddKey(const Id16& party, const FakeKeyOptions& options = {});
  void RevokeKey(const std::string& key);

  // Away: the listener is gone; what was granted and taken is kept. Back: listens again.
  void Leave();
  void Return();

  std::vector<v1::UsageRecord> records() const;
  // Blocks until there are `count` records, at most 10 s; then all of them.
  std::vector<v1::UsageRecord> WaitForRecords(size_t count) const;
  // What the tenant has left beside open slices; what is set aside in open slices; what records have cost.
  int64_t available_micro(const Id16& party) const;
  int64_t set_aside_micro(const Id16& party) const;
  int64_t charged_micro(const Id16& party) const;
  int open_slices() const;
  // Empty unless the gateway broke a promise: a record of a closed slice, more charged than granted, two contents for
  // one record id.
  std::vector<std::string> violations() const;
  // Life of slices granted from now on.
  void set_slice_life(absl::Duration life);

 private:
  class CreditService;
  class UsageService;
  class CatalogService;
  class LeaseService;
  struct Slice {
    Id16 party;
    std::string key_id;  // of a key with a budget
    int64_t granted = 0, returned = 0, charged = 0;
    bool closed = false;
  };
  struct Tenant {
    std::string name;
    v1::PartyStatus status = v1::PARTY_STATUS_ACTIVE;
    int64_t balance = 0;
  };
  int64_t SetAsideLocked(const Id16& party) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  int64_t BudgetLeftLocked(const std::string& key_id) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  void Take(const v1::UsageRecord& record);
  void ChangeKeyLocked(const v1::KeyRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const TestIdentities& identities_;
  std::unique_ptr<CreditService> credit_;
  std::unique_ptr<UsageService> usage_;
  std::unique_ptr<CatalogService> catalog_;
  std::unique_ptr<LeaseService> leases_;
  const std::string pepper_ = std::string(32, 'p');

  mutable absl::Mutex mu_;
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;
  absl::Duration slice_life_ ABSL_GUARDED_BY(mu_) = absl::Hours(1);
  std::map<Id16, Tenant> tenants_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, v1::KeyRecord> keys_ ABSL_GUARDED_BY(mu_);  // by public id
  std::vector<v1::KeyEvent> key_events_ ABSL_GUARDED_BY(mu_);       // sequence = position + 1
  std::map<std::string, Slice> slices_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::UsageRecord> records_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> violations_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<RpcServer> server_;  // last: its calls use the rest
};

}  // namespace gantry::gateway
