#include "gateway/admission/admission.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gantry/v1/lease.pb.h"

namespace gantry::gateway {

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
  used_tokens_ = prompt_tokens + output_tokens;
  hold_->Settle(prices_.CostMicro(prompt_tokens, cached_tokens, output_tokens));
}

// ---- admission ----

std::shared_ptr<Admission> Admission::Create(KeyTable* keys, PriceTable* prices, std::shared_ptr<CreditBook> book,
                                             std::function<absl::Duration()> monotonic,
                                             std::function<absl::Time()> wall, Report report) {
  auto admission = std::shared_ptr<Admission>(
      new Admission(keys, prices, std::move(book), std::move(monotonic), std::move(wall), std::move(report)));
  keys->OnChange([weak = std::weak_ptr<Admission>(admission)](const Id16& key_id) {
    if (auto self = weak.lock()) self->KeyChanged(key_id);
  });
  return admission;
}

Admission::Admission(KeyTable* keys, PriceTable* prices, std::shared_ptr<CreditBook> book,
                     std::function<absl::Duration()> monotonic, std::function<absl::Time()> wall, Report report)
    : keys_(keys),
      prices_(prices),
      book_(std::move(book)),
      monotonic_(std::move(monotonic)),
      wall_(std::move(wall)),
      report_(std::move(report)) {}

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

std::variant<std::unique_ptr<Permit>, NeedsCredit, NeedsPermits, Refusal> Admission::Admit(
    const AdmissionRequest& request, std::unique_ptr<CreditBook::Hold> reserved) {
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
  KeyState& state = StateLocked(key->key_id);
  const Taking taking{.requests = request.counts_as_request ? 1U : 0U,
                      .tokens = hold_tokens,
                      .slots = request.counts_as_request ? 1U : 0U};
  auto judged = JudgeLocked(key, &state, taking);
  if (const auto* limit = std::get_if<v1::WindowLimit>(&judged)) return RefuseLocked(*key, &state, *limit, hold_tokens);
  if (auto* needs = std::get_if<NeedsPermits>(&judged)) return std::move(*needs);
  const Purse purse = key->budget_micro > 0 ? Purse(key->party, key->key_id) : Purse(key->party);
  std::unique_ptr<CreditBook::Hold> hold;
  if (reserved != nullptr && reserved->purse() == purse && reserved->held_micro() >= hold_micro) {
    hold = std::move(reserved);
  } else {
    hold = book_->Draw(purse, hold_micro, extension_micro);
  }
  if (hold == nullptr) {
    return NeedsCredit{{.purse = purse,
                        .micro = hold_micro,
                        .extension_micro = extension_micro,
                        .key = key->key_id,
                        .plan_version = prices->plan_version}};
  }

  // Nothing can refuse any more: take.
  std::unique_ptr<Permit> permit(new Permit);
  permit->admission_ = shared_from_this();
  permit->key_ = key;
  permit->prices_ = *prices;
  permit->hold_ = std::move(hold);
  permit->reserved_tokens_ = hold_tokens;
  permit->counted_ = request.counts_as_request;
  TakeLocked(*key, &state, taking, permit.get());
  state.permits.insert(permit.get());
  permit->limits_ = LimitsLocked(*key, &state);
  active_.fetch_add(1, std::memory_order_relaxed);
  return permit;
}

Refusal Admission::CreditRefusal(const absl::Status& status) {
  if (absl::IsFailedPrecondition(status)) {
    return Refusal{RefusalReason::kFunds,
                   absl::StrCat("You exceeded your current quota, please check your balance: ", status.message())};
  }
  if (absl::IsOutOfRange(status)) {
    return Refusal{RefusalReason::kKeyBudget, absl::StrCat("You exceeded your current quota: ", status.message())};
  }
  if (absl::IsResourceExhausted(status)) {
    return Refusal{RefusalReason::kBillingAway,
                   "Credit cannot be checked now: what is left of it may lie with a gateway that does not answer.",
                   absl::Seconds(2)};
  }
  return Refusal{RefusalReason::kBillingAway,
                 "Credit cannot be checked now and the credit set aside for this gateway is used up.",
                 absl::Seconds(2)};
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
