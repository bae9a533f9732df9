// For tests: a store in a directory of its own with a house, the plan "standard" and one tenant, and a clock that the
// test moves.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "billing/ledger/ledger.h"
#include "billing/store/store.h"
#include "gantry/v1/admin.pb.h"
#include "gantry/v1/billing.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

class Books {
 public:
  Books();  // 2026-11-10 12:00 UTC; tenant "demo" with 10 EUR; input 200,000, cached 50,000, output 800,000 per million
  ~Books();

  Store& store() { return *store_; }
  const std::string& dir() const { return dir_; }
  std::string path() const { return dir_ + "/gantry.db"; }
  int64_t now_us() const { return now_us_; }
  void Advance(int64_t us) { now_us_ += us; }
  void SetTime(int64_t us) { now_us_ = us; }
  const Id16& tenant() const { return tenant_; }
  const Id16& plan() const { return plan_; }
  const Id16& key() const { return key_; }
  const Id16& gateway() const { return gateway_; }

  // Runs a command or a query and fails the test when its status is not OK.
  void Do(const Store::Command& command);
  template <typename T>
  T Get(const std::function<absl::StatusOr<T>(Database&)>& command) {
    T value{};
    Do([&](Database& db) {
      absl::StatusOr<T> result = command(db);
      if (result.ok()) value = *std::move(result);
      return result.status();
    });
    return value;
  }
  // Runs a command whose status the test looks at.
  template <typename T>
  absl::StatusOr<T> Try(const std::function<absl::StatusOr<T>(Database&)>& command) {
    absl::StatusOr<T> result = absl::UnknownError("did not run");
    store_
        ->WriteAndWait([&](Database& db) {
          result = command(db);
          return result.status();
        })
        .IgnoreError();
    return result;
  }
  // One integer of one row.
  int64_t Int(const char* sql);
  // Past every guard of the schema, to see whether audits notice.
  void Tamper(const char* sql);
  // Closes and opens the store again.
  void Reopen();

  Id16 NewTenant(const std::string& name, int64_t top_up_micro, const std::string& parent = "");
  // With a plan "standard" of its own: what it buys at, with a markup.
  Id16 NewReseller(const std::string& name, int64_t top_up_micro, int64_t markup_ppm, const std::string& parent = "");
  Funds FundsOfParty(const Id16& party);
  // With a budget of its own.
  v1::Key NewKey(int64_t budget_micro, v1::BudgetPeriod period, const std::string& party = "demo");
  // The version that prices a party now.
  Id16 PlanOf(const Id16& party);
  // Grants a slice; zero id when billing refuses, or would have requests reserve.
  Id16 Slice(int64_t micro, uint64_t epoch = 1);
  Id16 SliceOf(const Id16& party, int64_t micro, uint64_t epoch = 1, const std::string& key_id = "");
  v1::UsageRecord Record(const Id16& slice, uint64_t prompt, uint64_t output,
                         v1::UsageOutcome outcome = v1::USAGE_OUTCOME_COMPLETED);
  v1::WitnessRecord Witness(const v1::UsageRecord& record, uint64_t generated);
  v1::UsageAck Append(const v1::UsageRecord& record);
  v1::UsageAck Append(const v1::WitnessRecord& record);
  std::string MatchState(const v1::UsageRecord& record);
  v1::AuditReport Audited();

 private:
  Id16 NewParty(v1::PartyKind kind, const std::string& name, int64_t top_up_micro, const std::string& parent);

  std::string dir_;
  std::unique_ptr<Store> store_;
  std::atomic<int64_t> now_us_;
  Id16 tenant_, plan_, key_, gateway_;
};

}  // namespace gantry::billing
