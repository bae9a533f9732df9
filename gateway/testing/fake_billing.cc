#include "gateway/testing/fake_billing.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/check.h"

namespace gantry::gateway {
namespace {

constexpr int64_t kInputPrice = 200'000;
constexpr int64_t kCachedPrice = 50'000;
constexpr int64_t kOutputPrice = 800'000;
constexpr absl::Duration kHeartbeat = absl::Milliseconds(200);

Id16 IdOf(const std::string& bytes) {
  const absl::StatusOr<Id16> id = Id16::FromBytes(bytes);
  return id.ok() ? *id : Id16{};
}

int64_t CostMicro(const v1::UsageRecord& record) {
  if (record.outcome() == v1::USAGE_OUTCOME_FAILED) return 0;
  const int64_t computed = static_cast<int64_t>(record.prompt_tokens() - record.cached_tokens());
  const int64_t pico = computed * kInputPrice + static_cast<int64_t>(record.cached_tokens()) * kCachedPrice +
                       static_cast<int64_t>(record.output_tokens()) * kOutputPrice;
  return (pico + 999'999) / 1'000'000;
}

}  // namespace

class FakeBilling::CreditService final : public v1::Credit::Service {
 public:
  explicit CreditService(FakeBilling* billing) : billing_(*billing) {}

  grpc::Status GrantSlice(grpc::ServerContext*, const v1::GrantSliceRequest* request,
                          v1::GrantSliceResponse* response) override {
    absl::MutexLock lock(&billing_.mu_);
    const Id16 party = IdOf(request->party_id());
    auto tenant = billing_.tenants_.find(party);
    if (tenant == billing_.tenants_.end()) return {grpc::StatusCode::NOT_FOUND, "no such party"};
    const int64_t available = tenant->second.balance - billing_.SetAsideLocked(party);
    if (available < request->minimum_micro()) {
      return {grpc::StatusCode::FAILED_PRECONDITION,
              absl::StrCat("available ", available, ", asked ", request->minimum_micro())};
    }
    int64_t granted = std::min(available, request->wanted_micro());
    if (!request->key_id().empty()) {
      const int64_t left = billing_.BudgetLeftLocked(request->key_id());
      if (left < request->minimum_micro()) {
        return {grpc::StatusCode::OUT_OF_RANGE,
                absl::StrCat("the budget of this key is spent: left ", left, ", asked ", request->minimum_micro())};
      }
      granted = std::min(granted, left);
    }
    billing_.slices_[request->slice_id()] = {.party = party, .key_id = request->key_id(), .granted = granted};
    response->set_slice_id(request->slice_id());
    response->set_granted_micro(granted);
    response->set_currency("EUR");
    response->set_ttl_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(billing_.slice_life_)));
    response->set_available_micro(available - granted);
    return grpc::Status::OK;
  }

  grpc::Status ReturnSlice(grpc::ServerContext*, const v1::ReturnSliceRequest* request,
                           v1::ReturnSliceResponse* response) override {
    absl::MutexLock lock(&billing_.mu_);
    auto it = billing_.slices_.find(request->slice_id());
    if (it == billing_.slices_.end()) return {grpc::StatusCode::NOT_FOUND, "no such slice"};
    Slice& slice = it->second;
    slice.returned = std::max(slice.returned, request->returned_micro());
    if (slice.returned + slice.charged > slice.granted) billing_.violations_.push_back("returned what was spent");
    slice.closed = slice.closed || request->close();
    response->set_remaining_micro(slice.closed ? 0 : slice.granted - slice.returned - slice.charged);
    return grpc::Status::OK;
  }

 private:
  FakeBilling& billing_;
};

class FakeBilling::UsageService final : public v1::Usage::Service {
 public:
  explicit UsageService(FakeBilling* billing) : billing_(*billing) {}

  grpc::Status AppendUsage(grpc::ServerContext*,
                           grpc::ServerReaderWriter<v1::UsageAck, v1::UsageBatch>* stream) override {
    v1::UsageBatch batch;
    while (stream->Read(&batch)) {
      v1::UsageAck ack;
      for (const v1::UsageRecord& record : batch.records()) {
        billing_.Take(record);
        ack.add_record_ids(record.record_id());
      }
      stream->Write(ack);
    }
    return grpc::Status::OK;
  }

 private:
  FakeBilling& billing_;
};

class FakeBilling::LeaseService final : public v1::Leases::Service {
 public:
  explicit LeaseService(FakeBilling* billing) : billing_(*billing) {}

  grpc::Status Attach(grpc::ServerContext* context,
                      grpc::ServerReaderWriter<v1::GatewayOrder, v1::GatewayReport>* stream) override {
    std::atomic<bool> ended{false};
    std::thread reader([&] {
      v1::GatewayReport report;
      while (stream->Read(&report)) {
      }
      ended = true;
    });
    v1::GatewayOrder order;
    order.mutable_mode()->set_number(1);
    order.mutable_mode()->set_alone(true);
    while (!ended && stream->Write(order)) {
      order.mutable_beat();
      for (int i = 0; i < 20 && !ended; ++i) {
        absl::SleepFor(kHeartbeat / 20);
        absl::MutexLock lock(&billing_.mu_);
        if (billing_.leaving_) ended = true;
      }
    }
    context->TryCancel();
    reader.join();
    return grpc::Status::OK;
  }

 private:
  FakeBilling& billing_;
};

class FakeBilling::CatalogService final : public v1::Catalog::Service {
 public:
  explicit CatalogService(FakeBilling* billing) : billing_(*billing) {}

  grpc::Status WatchKeys(grpc::ServerContext* context, const v1::WatchRequest* request,
                         grpc::ServerWriter<v1::KeyEvent>* writer) override {
    size_t sent = request->after_sequence();
    if (sent == 0) {
      v1::KeyEvent first;
      absl::MutexLock lock(&billing_.mu_);
      sent = billing_.key_events_.size();
      first.set_sequence(sent);
      first.mutable_snapshot()->set_pepper(billing_.pepper_);
      for (const auto& [id, record] : billing_.keys_) *first.mutable_snapshot()->add_keys() = record;
      writer->Write(first);
    }
    while (!context->IsCancelled()) {
      std::vector<v1::KeyEvent> events;
      {
        absl::MutexLock lock(&billing_.mu_);
        const auto news = [&]() ABSL_SHARED_LOCKS_REQUIRED(billing_.mu_) {
          return billing_.leaving_ || billing_.key_events_.size() > sent;
        };
        billing_.mu_.AwaitWithTimeout(absl::Condition(&news), kHeartbeat);
        if (billing_.leaving_) return {grpc::StatusCode::UNAVAILABLE, "leaving"};
        events.assign(billing_.key_events_.begin() + static_cast<std::ptrdiff_t>(sent), billing_.key_events_.end());
      }
      if (events.empty()) {
        events.emplace_back().mutable_heartbeat();
        events.back().set_sequence(sent);
      }
      for (const v1::KeyEvent& event : events) {
        if (!writer->Write(event)) return grpc::Status::OK;
        sent = event.sequence();
      }
    }
    return grpc::Status::OK;
  }

  grpc::Status WatchPrices(grpc::ServerContext* context, const v1::WatchRequest*,
                           grpc::ServerWriter<v1::PriceEvent>* writer) override {
    size_t known = 0;
    while (!context->IsCancelled()) {
      v1::PriceEvent event;
      {
        absl::MutexLock lock(&billing_.mu_);
        const auto news = [&]() ABSL_SHARED_LOCKS_REQUIRED(billing_.mu_) {
          return billing_.leaving_ || billing_.tenants_.size() != known;
        };
        billing_.mu_.AwaitWithTimeout(absl::Condition(&news), kHeartbeat);
        if (billing_.leaving_) return {grpc::StatusCode::UNAVAILABLE, "leaving"};
        event.set_sequence(billing_.tenants_.size() + 1);
        event.mutable_heartbeat();
        if (billing_.tenants_.size() != known) {
          known = billing_.tenants_.size();
          for (const auto& [id, tenant] : billing_.tenants_) Fill(id, event.mutable_snapshot()->add_tenants());
        }
      }
      if (!writer->Write(event)) break;
    }
    return grpc::Status::OK;
  }

 private:
  static void Fill(const Id16& party, v1::TenantPrices* prices) {
    prices->set_party_id(party.ToBytes());
    prices->set_plan_version_id(std::string(16, 'v'));
    prices->set_currency("EUR");
    for (const auto& [token_class, price] : {std::pair{v1::TOKEN_CLASS_INPUT, kInputPrice},
                                             {v1::TOKEN_CLASS_CACHED_INPUT, kCachedPrice},
                                             {v1::TOKEN_CLASS_OUTPUT, kOutputPrice}}) {
      v1::PriceLine* line = prices->add_lines();
      line->set_model_glob("*");
      line->set_token_class(token_class);
      line->set_price_micro_per_m(price);
    }
  }
  FakeBilling& billing_;
};

FakeBilling::FakeBilling(const TestIdentities& identities)
    : identities_(identities),
      credit_(std::make_unique<CreditService>(this)),
      usage_(std::make_unique<UsageService>(this)),
      catalog_(std::make_unique<CatalogService>(this)),
      leases_(std::make_unique<LeaseService>(this)) {
  Return();
}

FakeBilling::~FakeBilling() {
  Leave();
}

void FakeBilling::Leave() {
  {
    absl::MutexLock lock(&mu_);
    leaving_ = true;
  }
  if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  server_.reset();
}

void FakeBilling::Return() {
  {
    absl::MutexLock lock(&mu_);
    leaving_ = false;
  }
  absl::StatusOr<std::unique_ptr<RpcServer>> server = RpcServer::Start(
      identities_.ServerOptions("billing"), {credit_.get(), usage_.get(), catalog_.get(), leases_.get()});
  GANTRY_CHECK(server.ok(), "the fake billing listens");
  server_ = *std::move(server);
}

Id16 FakeBilling::AddTenant(const std::string& name, int64_t balance_micro) {
  const Id16 party = NewTimeOrderedId();
  absl::MutexLock lock(&mu_);
  tenants_[party] = {.name = name, .balance = balance_micro};
  return party;
}

std::string FakeBilling::AddKey(const Id16& party, const FakeKeyOptions& options) {
  const NewApiKey key = MakeApiKey("live");
  v1::KeyRecord record;
  record.set_key_id(NewTimeOrderedId().ToBytes());
  record.set_public_id(key.public_id);
  record.set_secret_hmac(HmacOfSecret(Secret(pepper_), key.secret));
  record.set_party_id(party.ToBytes());
  record.mutable_scopes()->Assign(options.scopes.begin(), options.scopes.end());
  record.mutable_models()->Assign(options.models.begin(), options.models.end());
  record.mutable_cidrs()->Assign(options.cidrs.begin(), options.cidrs.end());
  record.set_expires_us(options.expires_us);
  record.set_requests_per_minute(options.requests_per_minute);
  record.set_tokens_per_minute(options.tokens_per_minute);
  record.set_concurrency(options.concurrency);
  record.set_budget_micro(options.budget_micro);
  absl::MutexLock lock(&mu_);
  record.set_party_name(tenants_[party].name);
  record.set_party_status(tenants_[party].status);
  ChangeKeyLocked(record);
  return std::string(key.text.Reveal());  // a test's key guards nothing
}

void FakeBilling::ChangeKeyLocked(const v1::KeyRecord& record) {
  keys_[record.public_id()] = record;
  v1::KeyEvent& event = key_events_.emplace_back();
  event.set_sequence(key_events_.size());
  *event.mutable_upsert() = record;
}

void FakeBilling::RevokeKey(const std::string& key) {
  const absl::StatusOr<ApiKey> parsed = ParseApiKey(key);
  GANTRY_CHECK(parsed.ok(), "a key of this billing");
  absl::MutexLock lock(&mu_);
  v1::KeyRecord record = keys_[parsed->public_id];
  record.set_revoked(true);
  ChangeKeyLocked(record);
}

void FakeBilling::SetStatus(const Id16& party, v1::PartyStatus status) {
  absl::MutexLock lock(&mu_);
  tenants_[party].status = status;
  for (auto [id, record] : std::map<std::string, v1::KeyRecord>(keys_)) {
    if (record.party_id() != party.ToBytes()) continue;
    record.set_party_status(status);
    ChangeKeyLocked(record);
  }
}

void FakeBilling::set_slice_life(absl::Duration life) {
  absl::MutexLock lock(&mu_);
  slice_life_ = life;
}

void FakeBilling::Take(const v1::UsageRecord& record) {
  absl::MutexLock lock(&mu_);
  for (const v1::UsageRecord& known : records_) {
    if (known.record_id() != record.record_id()) continue;
    if (known.output_tokens() != record.output_tokens() || known.outcome() != record.outcome()) {
      violations_.push_back("two contents for one record id");
    }
    return;
  }
  records_.push_back(record);
  auto slice = slices_.find(record.slice_id());
  if (slice == slices_.end()) {
    violations_.push_back("a record of a slice that was never granted");
    return;
  }
  if (slice->second.closed) violations_.push_back("a record of a closed slice");
  slice->second.charged += CostMicro(record);
  if (slice->second.charged + slice->second.returned > slice->second.granted) {
    violations_.push_back("more charged than granted");
  }
  if (CostMicro(record) > record.held_micro() && record.outcome() != v1::USAGE_OUTCOME_GATEWAY_LOST) {
    violations_.push_back("more charged than held");
  }
  tenants_[slice->second.party].balance -= CostMicro(record);
}

int64_t FakeBilling::SetAsideLocked(const Id16& party) const {
  int64_t total = 0;
  for (const auto& [id, slice] : slices_) {
    if (slice.party == party && !slice.closed) total += slice.granted - slice.returned - slice.charged;
  }
  return total;
}

int64_t FakeBilling::BudgetLeftLocked(const std::string& key_id) const {
  int64_t left = 0;
  for (const auto& [public_id, record] : keys_) {
    if (record.key_id() == key_id) left = record.budget_micro();
  }
  for (const auto& [id, slice] : slices_) {
    if (slice.key_id == key_id) left -= slice.closed ? slice.charged : slice.granted - slice.returned;
  }
  return left;
}

std::vector<v1::UsageRecord> FakeBilling::records() const {
  absl::MutexLock lock(&mu_);
  return records_;
}

std::vector<v1::UsageRecord> FakeBilling::WaitForRecords(size_t count) const {
  absl::MutexLock lock(&mu_);
  const auto enough = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return records_.size() >= count; };
  mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(10));
  return records_;
}

int64_t FakeBilling::available_micro(const Id16& party) const {
  absl::MutexLock lock(&mu_);
  return tenants_.at(party).balance - SetAsideLocked(party);
}

int64_t FakeBilling::set_aside_micro(const Id16& party) const {
  absl::MutexLock lock(&mu_);
  return SetAsideLocked(party);
}

int64_t FakeBilling::charged_micro(const Id16& party) const {
  absl::MutexLock lock(&mu_);
  int64_t total = 0;
  for (const auto& [id, slice] : slices_) {
    if (slice.party == party) total += slice.charged;
  }
  return total;
}

int FakeBilling::open_slices() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int>(
      std::count_if(slices_.begin(), slices_.end(), [](const auto& entry) { return !entry.second.closed; }));
}

std::vector<std::string> FakeBilling::violations() const {
  absl::MutexLock lock(&mu_);
  return violations_;
}

}  // namespace gantry::gateway
