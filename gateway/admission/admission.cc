#include "gateway/admission/admission.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace gantry::gateway {
namespace {

std::string Seconds(absl::Duration duration) {
  return absl::StrCat(absl::ToInt64Milliseconds(duration) / 1000.0, " s");
}

}  // namespace

const char* RefusalName(RefusalReason reason) {
  switch (reason) {
    case RefusalReason::kStaleKeys:
      return "stale_keys";
    case RefusalReason::kInvalidKey:
      return "invalid_key";
    case RefusalReason::kExpiredKey:
      return "expired_key";
    case RefusalReason::kSuspended:
      return "suspended";
    case RefusalReason::kScope:
      return "scope";
    case RefusalReason::kAddress:
      return "address";
    case RefusalReason::kModel:
      return "model";
    case RefusalReason::kNoPrice:
      return "no_price";
    case RefusalReason::kRequests:
      return "requests";
    case RefusalReason::kTokens:
      return "tokens";
    case RefusalReason::kConcurrency:
      return "concurrency";
    case RefusalReason::kKeyBudget:
      return "key_budget";
    case RefusalReason::kFunds:
      return "funds";
    case RefusalReason::kBillingAway:
      return "billing_away";
  }
  return "unknown";
}

// ---- permit ----

Permit::~Permit() {
  admission_->Release(this);
}

void Permit::OnRevoked(std::function<void()> wake) {
  bool now = false;
  {
    absl::MutexLock lock(&admission_->mu_);
    wake_ = std::move(wake);
    now = revoked();
  }
  if (now) wake_();
}

bool Permit::ExtendOutput(uint64_t tokens) {
  return hold_->Extend(prices_.OutputMicro(tokens));
}

void Permit::SettleFailed() {
  hold_->Settle(0);
}

void Permit::Settle(uint64_t prompt_tokens, uint64_t cached_tokens, uint64_t output_tokens) {
  spent_micro_ = prices_.CostMicro(prompt_tokens, cached_tokens, output_tokens);
  used_tokens_ = prompt_tokens + output_tokens;
  hold_->Settle(spent_micro_);
}

// ---- admission ----

std::shared_ptr<Admission> Admission::Create(KeyTable* keys, PriceTable* prices, std::shared_ptr<CreditBook> book,
                                             std::function<absl::Duration()> monotonic,
                                             std::function<absl::Time()> wall) {
  auto admission =
      std::shared_ptr<Admission>(new Admission(keys, prices, std::move(book), std::move(monotonic), std::move(wall)));
  keys->OnChange([weak = std::weak_ptr<Admission>(admission)](const Id16& key_id) {
    if (auto self = weak.lock()) self->KeyChanged(key_id);
  });
  return admission;
}

Admission::Admission(KeyTable* keys, PriceTable* prices, std::shared_ptr<CreditBook> book,
                     std::function<absl::Duration()> monotonic, std::function<absl::Time()> wall)
    : keys_(keys), prices_(prices), book_(std::move(book)), monotonic_(std::move(monotonic)), wall_(std::move(wall)) {}

std::variant<std::shared_ptr<const KeyInfo>, Refusal> Admission::Authenticate(absl::string_view secret) const {
  if (!keys_->Fresh()) {
    return Refusal{RefusalReason::kStaleKeys, "Keys cannot be checked now: billing has been silent for over 60 s.",
                   absl::Seconds(5)};
  }
  std::shared_ptr<const KeyInfo> key = keys_->Authenticate(secret);
  if (key == nullptr || key->revoked) {
    return Refusal{RefusalReason::kInvalidKey, "Incorrect API key provided, or the key has been revoked."};
  }
  return key;
}

std::variant<std::monostate, Refusal> Admission::MayCall(const KeyInfo& key, absl::string_view scope,
                                                         absl::string_view address) const {
  if (key.expires_us != 0 && absl::ToUnixMicros(wall_()) >= key.expires_us) {
    return Refusal{
        RefusalReason::kExpiredKey,
        absl::StrCat("The API key expired at ",
                     absl::FormatTime(absl::RFC3339_sec, absl::FromUnixMicros(key.expires_us), absl::UTCTimeZone()),
                     ".")};
  }
  if (!key.party_active) {
    return Refusal{RefusalReason::kSuspended, absl::StrCat("The account \"", key.party_name, "\" is not active.")};
  }
  if (!key.HasScope(scope)) {
    return Refusal{RefusalReason::kScope, absl::StrCat("The API key has no scope \"", scope, "\".")};
  }
  if (!key.MayCallFrom(address)) {
    return Refusal{RefusalReason::kAddress, absl::StrCat("The API key may not be used from address ", address, ".")};
  }
  return std::monostate{};
}

std::variant<std::unique_ptr<Permit>, NeedsCredit, Refusal> Admission::Admit(const AdmissionRequest& request) {
  if (!keys_->Fresh()) {
    return Refusal{RefusalReason::kStaleKeys, "Keys cannot be checked now: billing has been silent for over 60 s.",
                   absl::Seconds(5)};
  }
  // As it is now, not as it was when the body began to arrive.
  std::shared_ptr<const KeyInfo> key = keys_->Find(request.key->key_id);
  if (key == nullptr || key->revoked) {
    return Refusal{RefusalReason::kInvalidKey, "The API key has been revoked."};
  }
  auto may = MayCall(*key, "inference", request.address);
  if (auto* refusal = std::get_if<Refusal>(&may)) return std::move(*refusal);
  if (!key->MayUseModel(request.model)) {
    return Refusal{RefusalReason::kModel, absl::StrCat("The API key may not use model \"", request.model, "\".")};
  }
  std::optional<Prices> prices = prices_->Find(key->party, request.model, request.prompt_tokens);
  if (!prices.has_value() && !prices_->loaded()) {
    return Refusal{RefusalReason::kBillingAway, "Prices are not known yet.", absl::Seconds(1), {}};
  }
  if (!prices.has_value()) {
    return Refusal{RefusalReason::kNoPrice,
                   absl::StrCat("The account's plan has no price for model \"", request.model, "\".")};
  }

  const uint64_t first_output = request.choices * std::min<uint64_t>(request.max_tokens, kCreditTokens);
  const uint64_t hold_tokens = request.prompt_tokens + first_output;
  // A hold of nothing has no id that billing would know; one micro-unit is the least there is.
  const int64_t hold_micro = std::max<int64_t>(1, prices->HoldMicro(request.prompt_tokens, first_output));
  const int64_t extension_micro =
      request.max_tokens > kCreditTokens
          ? prices->OutputMicro(request.choices * std::min<uint64_t>(request.max_tokens - kCreditTokens, kCreditTokens))
          : 0;

  absl::MutexLock lock(&mu_);
  const absl::Duration now = monotonic_();
  std::unique_ptr<KeyState>& slot = states_[key->key_id];
  if (slot == nullptr) slot = std::make_unique<KeyState>();
  KeyState& state = *slot;
  const auto limits = [&] {
    LimitState out;
    out.requests_limit = key->requests_per_minute;
    out.requests_used = state.requests.used(now);
    out.requests_reset = state.requests.reset(now);
    out.tokens_limit = key->tokens_per_minute;
    out.tokens_used = state.tokens.used(now);
    out.tokens_reset = state.tokens.reset(now);
    return out;
  };
  if (key->concurrency > 0 && request.counts_as_request && state.running >= key->concurrency) {
    return Refusal{RefusalReason::kConcurrency,
                   absl::StrCat("Rate limit reached for this key on concurrent requests: limit ", key->concurrency,
                                ", used ", state.running, ". Try again when a request has ended."),
                   absl::Seconds(1), limits()};
  }
  if (key->requests_per_minute > 0 && request.counts_as_request &&
      !state.requests.Fits(now, 1, key->requests_per_minute)) {
    return Refusal{
        RefusalReason::kRequests,
        absl::StrCat("Rate limit reached for this key on requests per minute: limit ", key->requests_per_minute,
                     ", used ", state.requests.used(now), ". Resets in ", Seconds(state.requests.reset(now)), "."),
        state.requests.reset(now), limits()};
  }
  if (key->tokens_per_minute > 0 && !state.tokens.Fits(now, hold_tokens, key->tokens_per_minute)) {
    return Refusal{RefusalReason::kTokens,
                   absl::StrCat("Rate limit reached for this key on tokens per minute: limit ", key->tokens_per_minute,
                                ", used ", state.tokens.used(now), ", requested ", hold_tokens, ". Resets in ",
                                Seconds(state.tokens.reset(now)), "."),
                   // A request that is larger than the whole window never fits.
                   hold_tokens > key->tokens_per_minute ? absl::ZeroDuration() : state.tokens.reset(now), limits()};
  }
  if (key->budget_micro > 0 && state.spent_micro + hold_micro > key->budget_micro) {
    return Refusal{RefusalReason::kKeyBudget,
                   absl::StrCat("The budget of this key is spent: limit ", key->budget_micro, " micro-units, used ",
                                state.spent_micro, ", requested ", hold_micro, ".")};
  }
  std::unique_ptr<CreditBook::Hold> hold = book_->Draw(key->party, hold_micro, extension_micro);
  if (hold == nullptr) return NeedsCredit{key->party, hold_micro + extension_micro};

  // Nothing can refuse any more: take.
  std::unique_ptr<Permit> permit(new Permit);
  permit->admission_ = shared_from_this();
  permit->key_ = key;
  permit->prices_ = *prices;
  permit->hold_ = std::move(hold);
  permit->reserved_tokens_ = hold_tokens;
  permit->admitted_at_ = now;
  if (request.counts_as_request) {
    ++state.running;
    state.requests.Take(now, 1);
  }
  permit->counted_ = request.counts_as_request;
  state.tokens.Take(now, hold_tokens);
  state.spent_micro += hold_micro;
  permit->first_hold_micro_ = hold_micro;
  state.permits.insert(permit.get());
  permit->limits_ = limits();
  active_.fetch_add(1, std::memory_order_relaxed);
  return permit;
}

Refusal Admission::CreditRefusal(const absl::Status& status) {
  if (absl::IsFailedPrecondition(status)) {
    return Refusal{RefusalReason::kFunds,
                   absl::StrCat("You exceeded your current quota, please check your balance: ", status.message())};
  }
  return Refusal{RefusalReason::kBillingAway,
                 "Credit cannot be checked now and the credit set aside for this gateway is used up.",
                 absl::Seconds(2)};
}

void Admission::Release(Permit* permit) {
  absl::MutexLock lock(&mu_);
  auto it = states_.find(permit->key_->key_id);
  if (it == states_.end()) return;
  KeyState& state = *it->second;
  const absl::Duration now = monotonic_();
  state.permits.erase(permit);
  if (permit->counted_) --state.running;
  state.tokens.Correct(now, permit->admitted_at_, permit->reserved_tokens_, permit->used_tokens_);
  state.spent_micro += permit->spent_micro_ - permit->first_hold_micro_;
  active_.fetch_sub(1, std::memory_order_relaxed);
}

void Admission::KeyChanged(const Id16& key_id) {
  std::shared_ptr<const KeyInfo> key = keys_->Find(key_id);
  const bool valid = key != nullptr && !key->revoked && key->party_active;
  if (valid) return;
  std::vector<std::function<void()>> wakes;
  {
    absl::MutexLock lock(&mu_);
    auto it = states_.find(key_id);
    if (it == states_.end()) return;
    for (Permit* permit : it->second->permits) {
      permit->revoked_.store(true, std::memory_order_release);
      if (permit->wake_) wakes.push_back(permit->wake_);
    }
  }
  for (const auto& wake : wakes) wake();
}

}  // namespace gantry::gateway
