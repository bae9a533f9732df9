#include "tests/credit/rig.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "billing/testing/admin_calls.h"
#include "services/common/instance.h"

namespace gantry::testing {

using billing::Done;
using billing::Keyed;
using Admin = billing::AdminStub;

namespace {

constexpr uint64_t kPromptTokens = 100;

absl::Duration Monotonic() {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

template <typename Done>
bool WaitUntil(absl::Duration limit, Done done) {
  const absl::Duration until = Monotonic() + limit;
  while (!done()) {
    if (Monotonic() >= until) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

}  // namespace

// ---- billing ----

CreditRig::CreditRig(int64_t balance_micro, Times times) : times_(times) {
  StartBilling();
  const auto channel = MakeChannel(address(), identities_.Get("admin"));
  admin_ = v1::BillingAdmin::NewStub(channel);
  gateways_ = v1::GatewayAdmin::NewStub(channel);
  billing::AddParty(*admin_, v1::PARTY_KIND_HOUSE, "house");
  plan_ = billing::AddPlan(*admin_, {1'000'000, 1'000'000, 1'000'000, 0});
  NewTenant("demo", balance_micro, "");
}

CreditRig::~CreditRig() = default;

void CreditRig::StartBilling() {
  billing::BillingOptions options;
  options.rpc = identities_.ServerOptions("billing");
  options.data_dir = identities_.dir() + "/billing";
  options.witness_deadline_ms = times_.witness_deadline_ms;
  options.longest_request_ms = times_.longest_request_ms;
  absl::StatusOr<std::unique_ptr<billing::Billing>> billing = billing::Billing::Start(options, nullptr);
  ASSERT_TRUE(billing.ok()) << billing.status();
  billing_ = *std::move(billing);
}

void CreditRig::StopBilling() {
  billing_.reset();
}

void CreditRig::NewTenant(const std::string& name, int64_t balance_micro, const std::string& parent) {
  billing::AddParty(*admin_, v1::PARTY_KIND_TENANT, name, parent);
  billing::AddMoney(*admin_, name, balance_micro);
}

void CreditRig::NewReseller(const std::string& name, int64_t balance_micro) {
  billing::AddParty(*admin_, v1::PARTY_KIND_RESELLER, name);
  billing::AddMoney(*admin_, name, balance_micro);
  auto plan = Keyed<v1::PublishPlanVersionRequest>(absl::StrCat("plan ", name));
  plan.set_seller_name(name);
  plan.set_plan("standard");
  plan.set_currency("EUR");
  plan.set_markup_of(plan_.plan_version_id());
  Done(*admin_, &Admin::PublishPlanVersion, plan);
}

std::string CreditRig::NewKey(v1::CreateKeyRequest request) {
  request.set_idempotency_key(absl::StrCat("key ", ++next_));
  if (request.party_name().empty()) request.set_party_name("demo");
  return Done(*admin_, &Admin::CreateKey, request).secret();
}

v1::Key CreditRig::FindKey(const std::string& secret) {
  v1::ListKeysRequest request;
  request.set_party_name("demo");
  const v1::ListKeysResponse response = Done(*admin_, &Admin::ListKeys, request);
  for (const v1::Key& key : response.keys()) {
    if (secret.find(absl::StrCat("_", key.public_id(), "_")) != std::string::npos) return key;
  }
  ADD_FAILURE() << "no such key";
  return {};
}

std::string CreditRig::Rotate(const std::string& secret, uint64_t overlap_s) {
  auto request = Keyed<v1::RotateKeyRequest>(absl::StrCat("key ", ++next_));
  request.set_public_id(FindKey(secret).public_id());
  request.set_overlap_s(overlap_s);
  return Done(*admin_, &Admin::RotateKey, request).secret();
}

void CreditRig::Revoke(const std::string& secret) {
  auto request = Keyed<v1::RevokeKeyRequest>(absl::StrCat("key ", ++next_));
  request.set_public_id(FindKey(secret).public_id());
  Done(*admin_, &Admin::RevokeKey, request);
}

v1::Balance CreditRig::Balance(const std::string& party) {
  v1::GetBalanceRequest request;
  request.set_party_name(party);
  return Done(*admin_, &Admin::GetBalance, request);
}

v1::AuditReport CreditRig::Audit() {
  return Done(*admin_, &Admin::Audit, v1::AuditRequest());
}

int64_t CreditRig::UsageMicro() {
  v1::QueryUsageRequest request;
  request.set_party_name("demo");
  request.set_page_size(1000);
  int64_t used_pico = 0;
  for (;;) {
    const v1::QueryUsageResponse page = Done(*admin_, &Admin::QueryUsage, request);
    for (const v1::UsageRow& row : page.rows()) used_pico += row.amount_pico();
    if (page.next_page_token().empty()) break;
    request.set_page_token(page.next_page_token());
  }
  return used_pico / 1'000'000;
}

// ---- a gateway ----

GatewayRig::GatewayRig(CreditRig* rig, const std::string& name, int64_t slice_micro) : keys_(Monotonic) {
  const std::string dir = rig->identities().dir() + "/" + name;
  const absl::StatusOr<Instance> instance = LoadInstance(dir);
  EXPECT_TRUE(instance.ok()) << instance.status();
  id_ = instance->id;
  const auto channel = MakeChannel(rig->address(), rig->identities().Get("gateway"));
  client_ = gateway::MakeCreditClient(channel);
  SpoolOptions spool;
  spool.directory = dir + "/spool";
  spool.durability = Durability::kWrite;
  std::vector<gateway::UsageJournal::Slice> orphans;
  auto journal = gateway::UsageJournal::Open(PosixFileSystem(), spool, &orphans);
  EXPECT_TRUE(journal.ok()) << journal.status();
  journal_ = *std::move(journal);
  gateway::CreditBook::Options options;
  options.gateway_id = id_;
  options.gateway_epoch = instance->epoch;
  options.slice_micro = slice_micro;
  options.monotonic = Monotonic;
  book_ = gateway::CreditBook::Create(std::move(options), client_.get());
  journal_->OnAcked(
      [this](const Id16& credit, bool taken) { taken ? book_->RecordAcked(credit) : book_->RecordRefused(credit); });
  leases_ = gateway::MakeLeaseLine(channel, id_, instance->epoch);
  const auto send = [line = leases_](const v1::GatewayReport& report) { return line->Send(report); };
  admission_ = gateway::Admission::Create(&keys_, &prices_, book_, Monotonic, absl::Now, send);
  leases_->Start({.order =
                      [this](const v1::GatewayOrder& order) {
                        admission_->Obey(order);
                        if (!order.has_recall()) return;
                        book_->Recall(order.recall(), [line = std::weak_ptr(leases_), n = order.recall().number()] {
                          v1::GatewayReport report;
                          report.mutable_recall_done()->set_number(n);
                          if (auto to = line.lock()) to->Send(report);
                        });
                      },
                  .broken = [this] { admission_->Broken(); }});
  streams_ = gateway::StartBillingStreams(channel, id_, instance->epoch, &keys_, &prices_, journal_.get());
  ticker_ = std::thread([this] {
    while (!stop_.WaitForNotificationWithTimeout(absl::Milliseconds(50))) {
      book_->Tick();
      admission_->Tick();
    }
  });
}

GatewayRig::~GatewayRig() {
  stop_.Notify();
  ticker_.join();
  journal_->OnAcked(nullptr);
  leases_->Stop();
  streams_.reset();
  client_.reset();
}

bool GatewayRig::Leave() {
  const bool all = WaitUntil(absl::Seconds(10), [&] {
    if (journal_->pending() > 0) return false;
    book_->ReturnAll();
    return book_->open_slices() == 0 && book_->closing() == 0;
  });
  leases_->Leave();
  return all;
}

void GatewayRig::WaitReady() {
  EXPECT_TRUE(
      WaitUntil(absl::Seconds(10), [&] { return keys_.Fresh() && prices_.loaded() && admission_->windows_known(); }));
}

void GatewayRig::WaitForKey(const std::string& secret) {
  EXPECT_TRUE(WaitUntil(absl::Seconds(10), [&] {
    return std::holds_alternative<std::shared_ptr<const gateway::KeyInfo>>(admission_->Authenticate(secret));
  }));
}

std::variant<std::unique_ptr<gateway::Permit>, gateway::Refusal> GatewayRig::Admit(const std::string& key,
                                                                                   uint64_t max_tokens) {
  auto known = admission_->Authenticate(key);
  if (auto* refusal = std::get_if<gateway::Refusal>(&known)) return std::move(*refusal);
  gateway::AdmissionRequest request{.key = std::get<std::shared_ptr<const gateway::KeyInfo>>(known),
                                    .model = "m",
                                    .address = "127.0.0.1",
                                    .prompt_tokens = kPromptTokens,
                                    .max_tokens = max_tokens};
  std::unique_ptr<gateway::CreditBook::Hold> reserved;
  for (;;) {
    auto decision = admission_->Admit(request, std::move(reserved));
    if (auto* permit = std::get_if<std::unique_ptr<gateway::Permit>>(&decision)) return std::move(*permit);
    if (auto* refusal = std::get_if<gateway::Refusal>(&decision)) return std::move(*refusal);
    absl::Notification answered;
    if (auto* needs = std::get_if<gateway::NeedsPermits>(&decision)) {
      ++permit_requests_;
      std::optional<gateway::Refusal> refusal;
      admission_->Lease(*needs, [&](std::optional<gateway::Refusal> answer) {
        refusal = std::move(answer);
        answered.Notify();
      });
      answered.WaitForNotification();
      if (refusal.has_value()) return *std::move(refusal);
      continue;
    }
    absl::Status status;
    book_->Obtain(std::get<gateway::NeedsCredit>(decision), NewTimeOrderedId(),
                  [&](absl::StatusOr<std::unique_ptr<gateway::CreditBook::Hold>> credit) {
                    status = credit.status();
                    if (credit.ok()) reserved = *std::move(credit);
                    answered.Notify();
                  });
    answered.WaitForNotification();
    if (!status.ok()) return gateway::Admission::CreditRefusal(status);
  }
}

std::string GatewayRig::Serve(const std::string& key, uint64_t max_tokens, uint64_t output) {
  auto admitted = Admit(key, max_tokens);
  if (auto* refusal = std::get_if<gateway::Refusal>(&admitted)) return gateway::RefusalName(refusal->reason);
  std::unique_ptr<gateway::Permit> permit = std::move(std::get<std::unique_ptr<gateway::Permit>>(admitted));
  gateway::CreditBook::Hold& hold = permit->hold();
  v1::UsageRecord opening;
  opening.set_request_id(NewTimeOrderedId().ToBytes());
  opening.set_party_id(permit->key().party.ToBytes());
  opening.set_key_id(permit->key().key_id.ToBytes());
  opening.set_hold_id((hold.reserved() ? hold.credit() : NewTimeOrderedId()).ToBytes());
  if (!hold.reserved()) opening.set_slice_id(hold.credit().ToBytes());
  opening.set_model("m");
  opening.set_plan_version_id(permit->prices().plan_version.ToBytes());
  opening.set_held_micro(hold.held_micro());
  auto entry = journal_->Begin(std::move(opening));
  EXPECT_TRUE(entry.ok()) << entry.status();
  uint64_t until = std::min<uint64_t>(max_tokens, gateway::kCreditTokens);
  const absl::Duration patience = Monotonic() + absl::Milliseconds(250);  // a worker waits so long for credit
  while (until < output && Monotonic() < patience) {
    const uint64_t next = std::min<uint64_t>(max_tokens - until, gateway::kCreditTokens);
    if (permit->ExtendOutput(next)) {
      until += next;
    } else {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  output = std::min(output, until);
  v1::UsageRecord record;
  record.set_outcome(v1::USAGE_OUTCOME_COMPLETED);
  record.set_prompt_tokens(kPromptTokens);
  record.set_output_tokens(output);
  record.set_held_micro(hold.held_micro());
  record.add_sequences()->set_output_tokens(output);
  permit->Settle(kPromptTokens, 0, output);
  permit.reset();
  absl::Notification written;
  (*entry)->Finish(std::move(record), [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    written.Notify();
  });
  written.WaitForNotification();
  return "";
}

}  // namespace gantry::testing
