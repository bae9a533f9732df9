#include "billing/testing/books.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <cstdlib>
#include <filesystem>

#include "billing/audit/audit.h"
#include "billing/catalog/keys.h"
#include "billing/catalog/parties.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/credit.h"
#include "billing/ledger/lots.h"
#include "billing/usage/usage.h"
#include "billing/usage/witness_match.h"

namespace gantry::billing {
namespace {

constexpr int64_t kStartUs = 1'794'312'000'000'000;  // 2026-11-10 12:00 UTC

v1::PriceLine Line(v1::TokenClass token_class, int64_t price) {
  v1::PriceLine line;
  line.set_model_glob("*");
  line.set_token_class(token_class);
  line.set_price_micro_per_m(price);
  return line;
}

}  // namespace

Books::Books() : now_us_(kStartUs), gateway_(NewTimeOrderedId()) {
  // $TEST_TMPDIR chooses the disk: thousands of commits in memory (/dev/shm) take seconds, on a busy disk minutes.
  dir_ = testing::TempDir() + "gantry-books-XXXXXX";
  if (mkdtemp(dir_.data()) == nullptr) std::abort();
  Reopen();
  Do([&](Database& db) {
    v1::CreatePartyRequest house;
    house.set_kind(v1::PARTY_KIND_HOUSE);
    house.set_name("house");
    house.set_legal_name("House Ltd");
    house.set_currency("EUR");
    absl::Status status = CreateParty(db, house, now_us()).status();
    if (!status.ok()) return status;
    v1::PublishPlanVersionRequest plan;
    plan.set_plan("standard");
    plan.set_currency("EUR");
    *plan.add_lines() = Line(v1::TOKEN_CLASS_INPUT, 200'000);
    *plan.add_lines() = Line(v1::TOKEN_CLASS_CACHED_INPUT, 50'000);
    *plan.add_lines() = Line(v1::TOKEN_CLASS_OUTPUT, 800'000);
    *plan.add_lines() = Line(v1::TOKEN_CLASS_REQUEST, 0);
    absl::StatusOr<v1::PlanVersion> version = PublishPlanVersion(db, plan, now_us());
    if (version.ok()) plan_ = *Id16::FromBytes(version->plan_version_id());
    return version.status();
  });
  tenant_ = NewTenant("demo", 10'000'000);
  Do([&](Database& db) {
    v1::CreateKeyRequest request;
    request.set_party_name("demo");
    absl::StatusOr<CreatedKey> key = CreateKey(db, request, Secret(std::string(32, 'p')), now_us());
    if (key.ok()) key_ = *Id16::FromBytes(key->key.key_id());
    return key.status();
  });
}

Books::~Books() {
  store_.reset();
  std::filesystem::remove_all(dir_);
}

void Books::Reopen() {
  store_.reset();
  Store::Options options;
  options.path = path();
  absl::StatusOr<std::unique_ptr<Store>> store = Store::Open(options);
  if (!store.ok()) {
    ADD_FAILURE() << store.status();
    std::abort();
  }
  store_ = *std::move(store);
}

void Books::Do(const Store::Command& command) {
  absl::Status status = store_->WriteAndWait(command);
  EXPECT_TRUE(status.ok()) << status;
}

int64_t Books::Int(const char* sql) {
  return Get<int64_t>([&](Database& db) -> absl::StatusOr<int64_t> {
    Rows rows = db.Query(sql);
    return rows.Next() ? rows.Int(0) : -1;
  });
}

void Books::Tamper(const char* sql) {
  store_.reset();
  sqlite3* handle = nullptr;
  ASSERT_EQ(sqlite3_open(path().c_str(), &handle), SQLITE_OK);
  std::string drop;
  auto collect = [](void* out, int, char** values, char**) {
    *static_cast<std::string*>(out) += std::string("DROP TRIGGER ") + values[0] + ";";
    return 0;
  };
  sqlite3_exec(handle, "SELECT name FROM sqlite_schema WHERE type = 'trigger'", collect, &drop, nullptr);
  sqlite3_exec(handle, ("PRAGMA ignore_check_constraints = ON;" + drop).c_str(), nullptr, nullptr, nullptr);
  ASSERT_EQ(sqlite3_exec(handle, sql, nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(handle);
  ASSERT_GT(sqlite3_total_changes(handle), 0) << "the tampering changed nothing";
  sqlite3_close(handle);
  Reopen();
}

Id16 Books::NewTenant(const std::string& name, int64_t top_up_micro, const std::string& parent) {
  return NewParty(v1::PARTY_KIND_TENANT, name, top_up_micro, parent);
}

Id16 Books::NewReseller(const std::string& name, int64_t top_up_micro, int64_t markup_ppm, const std::string& parent) {
  const Id16 id = NewParty(v1::PARTY_KIND_RESELLER, name, top_up_micro, parent);
  Do([&](Database& db) {
    absl::StatusOr<PartyRow> row = PartyById(db, id);
    if (!row.ok()) return row.status();
    absl::StatusOr<std::shared_ptr<const PlanTerms>> base = TermsAt(db, row->party_no, now_us());
    if (!base.ok()) return base.status();
    v1::PublishPlanVersionRequest plan;
    plan.set_seller_name(name);
    plan.set_plan("standard");
    plan.set_currency(row->currency);
    plan.set_markup_of((*base)->version_id.ToBytes());
    plan.set_markup_ppm(markup_ppm);
    return PublishPlanVersion(db, plan, now_us()).status();
  });
  return id;
}

Funds Books::FundsOfParty(const Id16& party) {
  return Get<Funds>([&](Database& db) -> absl::StatusOr<Funds> {
    absl::StatusOr<PartyRow> row = PartyById(db, party);
    if (!row.ok()) return row.status();
    return ReadFunds(db, *row);
  });
}

Id16 Books::PlanOf(const Id16& party) {
  return Get<Id16>([&](Database& db) -> absl::StatusOr<Id16> {
    absl::StatusOr<PartyRow> row = PartyById(db, party);
    if (!row.ok()) return row.status();
    absl::StatusOr<std::shared_ptr<const PlanTerms>> terms = TermsAt(db, row->party_no, now_us());
    if (!terms.ok()) return terms.status();
    return (*terms)->version_id;
  });
}

Id16 Books::NewParty(v1::PartyKind kind, const std::string& name, int64_t top_up_micro, const std::string& parent) {
  Id16 id;
  Do([&](Database& db) {
    v1::CreatePartyRequest request;
    request.set_kind(kind);
    request.set_name(name);
    request.set_parent_name(parent);
    absl::StatusOr<v1::Party> party = CreateParty(db, request, now_us());
    if (!party.ok()) return party.status();
    id = *Id16::FromBytes(party->party_id());
    if (top_up_micro == 0) return absl::OkStatus();
    absl::StatusOr<PartyRow> row = PartyById(db, id);
    if (!row.ok()) return row.status();
    return PostCredit(db, *row, {.amount_micro = top_up_micro, .reference = "test"}, now_us());
  });
  return id;
}

Id16 Books::Slice(int64_t micro, uint64_t epoch) {
  return SliceOf(tenant_, micro, epoch);
}

v1::Key Books::NewKey(int64_t budget_micro, v1::BudgetPeriod period, const std::string& party) {
  v1::CreateKeyRequest request;
  request.set_party_name(party);
  request.set_budget_micro(budget_micro);
  request.set_budget_period(period);
  return Get<v1::Key>([&](Database& db) -> absl::StatusOr<v1::Key> {
    absl::StatusOr<CreatedKey> created = CreateKey(db, request, Secret(std::string(32, 'p')), now_us());
    if (!created.ok()) return created.status();
    return created->key;
  });
}

Id16 Books::SliceOf(const Id16& party, int64_t micro, uint64_t epoch, const std::string& key_id) {
  v1::GrantSliceRequest request;
  const Id16 id = NewTimeOrderedId();
  request.set_slice_id(id.ToBytes());
  request.set_gateway_id(gateway_.ToBytes());
  request.set_gateway_epoch(epoch);
  request.set_party_id(party.ToBytes());
  request.set_key_id(key_id);
  request.set_wanted_micro(micro);
  request.set_minimum_micro(micro);
  int64_t granted = 0;
  const absl::Status status = store_->WriteAndWait([&](Database& db) {
    absl::StatusOr<v1::GrantSliceResponse> response = GrantSlice(db, request, now_us());
    if (response.ok()) granted = response->granted_micro();
    return response.status();
  });
  return status.ok() && granted > 0 ? id : Id16{};
}

v1::UsageRecord Books::Record(const Id16& slice, uint64_t prompt, uint64_t output, v1::UsageOutcome outcome) {
  v1::UsageRecord record;
  record.set_record_id(NewTimeOrderedId().ToBytes());
  record.set_request_id(NewTimeOrderedId().ToBytes());
  record.set_party_id(tenant_.ToBytes());
  record.set_key_id(key_.ToBytes());
  record.set_hold_id(NewTimeOrderedId().ToBytes());
  record.set_slice_id(slice.ToBytes());
  record.set_model("gantry-demo");
  record.set_plan_version_id(plan_.ToBytes());
  record.set_outcome(outcome);
  record.set_prompt_tokens(prompt);
  record.set_output_tokens(output);
  v1::SequenceUsage* sequence = record.add_sequences();
  sequence->set_attempts(outcome == v1::USAGE_OUTCOME_FAILED ? 0 : 1);
  sequence->set_output_tokens(output);
  return record;
}

v1::WitnessRecord Books::Witness(const v1::UsageRecord& record, uint64_t generated) {
  v1::WitnessRecord witness;
  witness.set_record_id(NewTimeOrderedId().ToBytes());
  witness.set_request_id(record.request_id());
  witness.set_hold_id(record.hold_id());
  witness.set_attempt(1);
  witness.set_to_index(generated);
  witness.set_prompt_tokens(record.prompt_tokens());
  witness.set_model(record.model());
  return witness;
}

v1::UsageAck Books::Append(const v1::UsageRecord& record) {
  return Get<v1::UsageAck>([&](Database& db) -> absl::StatusOr<v1::UsageAck> {
    v1::UsageBatch batch;
    *batch.add_records() = record;
    absl::StatusOr<AppendResult> result = AppendUsage(db, batch, now_us());
    if (!result.ok()) return result.status();
    return result->ack;
  });
}

v1::UsageAck Books::Append(const v1::WitnessRecord& record) {
  return Get<v1::UsageAck>([&](Database& db) -> absl::StatusOr<v1::UsageAck> {
    v1::WitnessBatch batch;
    batch.set_worker_id(std::string(16, 'w'));
    *batch.add_records() = record;
    absl::StatusOr<AppendResult> result = AppendWitness(db, batch, now_us());
    if (!result.ok()) return result.status();
    return result->ack;
  });
}

std::string Books::MatchState(const v1::UsageRecord& record) {
  return Get<std::string>([&](Database& db) -> absl::StatusOr<std::string> {
    return billing::MatchState(db, *Id16::FromBytes(record.request_id()));
  });
}

v1::AuditReport Books::Audited() {
  v1::AuditReport report;
  absl::Status status = store_->ReadAndWait([&](Database& db) {
    report = Audit(db);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return report;
}

}  // namespace gantry::billing
