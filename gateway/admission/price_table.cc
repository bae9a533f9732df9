#include "gateway/admission/price_table.h"

#include <algorithm>

#include "gantry/v1/billing.pb.h"
#include "gateway/admission/key_table.h"

namespace gantry::gateway {

PriceTable::PriceTable() = default;
PriceTable::~PriceTable() = default;

namespace {

__extension__ using Wide = __int128;

int64_t MicroRoundedUp(Wide pico) {
  const Wide micro = (pico + 999'999) / 1'000'000;
  return micro > INT64_MAX ? INT64_MAX : static_cast<int64_t>(micro);
}

}  // namespace

int64_t Prices::CostMicro(uint64_t prompt_tokens, uint64_t cached_tokens, uint64_t output_tokens) const {
  const uint64_t computed = prompt_tokens - std::min(prompt_tokens, cached_tokens);
  return MicroRoundedUp(static_cast<Wide>(computed) * input + static_cast<Wide>(cached_tokens) * cached +
                        static_cast<Wide>(output_tokens) * output + static_cast<Wide>(request));
}

int64_t Prices::HoldMicro(uint64_t prompt_tokens, uint64_t output_tokens) const {
  return CostMicro(prompt_tokens, cached > input ? prompt_tokens : 0, output_tokens);
}

int64_t Prices::OutputMicro(uint64_t tokens) const {
  return MicroRoundedUp(static_cast<Wide>(tokens) * output);
}

uint64_t PriceTable::Apply(const v1::PriceEvent& event) {
  absl::MutexLock lock(&mu_);
  auto set = [this](const v1::TenantPrices& prices) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    auto party = Id16::FromBytes(prices.party_id());
    if (party.ok()) tenants_[*party] = std::make_shared<v1::TenantPrices>(prices);
  };
  if (event.has_snapshot()) {
    loaded_ = true;
    tenants_.clear();
    for (const v1::TenantPrices& prices : event.snapshot().tenants()) set(prices);
  } else if (event.has_upsert()) {
    set(event.upsert());
  }
  return event.sequence();
}

bool PriceTable::loaded() const {
  absl::MutexLock lock(&mu_);
  return loaded_;
}

std::optional<Prices> PriceTable::Find(const Id16& party, absl::string_view model) const {
  std::shared_ptr<const v1::TenantPrices> tenant;
  {
    absl::MutexLock lock(&mu_);
    auto it = tenants_.find(party);
    if (it == tenants_.end()) return std::nullopt;
    tenant = it->second;
  }
  auto plan_version = Id16::FromBytes(tenant->plan_version_id());
  if (!plan_version.ok()) return std::nullopt;
  auto first = [&](v1::TokenClass token_class) -> std::optional<int64_t> {
    for (const v1::PriceLine& line : tenant->lines()) {
      if (line.token_class() == token_class && MatchesGlob(line.model_glob(), model)) return line.price_micro_per_m();
    }
    return std::nullopt;
  };
  std::optional<int64_t> input = first(v1::TOKEN_CLASS_INPUT);
  std::optional<int64_t> output = first(v1::TOKEN_CLASS_OUTPUT);
  if (!input || !output || *input < 0 || *output < 0) return std::nullopt;
  Prices prices;
  prices.plan_version = *plan_version;
  prices.input = *input;
  prices.cached = first(v1::TOKEN_CLASS_CACHED_INPUT).value_or(*input);
  prices.output = *output;
  prices.request = first(v1::TOKEN_CLASS_REQUEST).value_or(0);
  return prices;
}

}  // namespace gantry::gateway
