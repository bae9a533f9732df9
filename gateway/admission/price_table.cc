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

// The most that `tokens` more can cost: packages are paid for whole.
Wide Pico(uint64_t tokens, int64_t price, uint64_t package) {
  const Wide units = package == 0 || tokens == 0 ? Wide{tokens} : (Wide{tokens} / package + 1) * package;
  return units * price;
}

}  // namespace

int64_t Prices::CostMicro(uint64_t prompt_tokens, uint64_t cached_tokens, uint64_t output_tokens) const {
  const uint64_t computed = prompt_tokens - std::min(prompt_tokens, cached_tokens);
  return MicroRoundedUp(Pico(computed, input, input_package) + Pico(cached_tokens, cached, cached_package) +
                        Pico(output_tokens, output, output_package) + request);
}

int64_t Prices::HoldMicro(uint64_t prompt_tokens, uint64_t output_tokens) const {
  // Packages of both kinds may be opened.
  if (input_package > 0 || cached_package > 0) {
    return std::max(
        CostMicro(prompt_tokens, prompt_tokens / 2, output_tokens),
        std::max(CostMicro(prompt_tokens, 0, output_tokens), CostMicro(prompt_tokens, prompt_tokens, output_tokens)));
  }
  return CostMicro(prompt_tokens, cached > input ? prompt_tokens : 0, output_tokens);
}

int64_t Prices::OutputMicro(uint64_t tokens) const {
  return MicroRoundedUp(Pico(tokens, output, output_package));
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

std::optional<Prices> PriceTable::Find(const Id16& party, absl::string_view model, uint64_t prompt_tokens) const {
  std::shared_ptr<const v1::TenantPrices> tenant;
  {
    absl::MutexLock lock(&mu_);
    auto it = tenants_.find(party);
    if (it == tenants_.end()) return std::nullopt;
    tenant = it->second;
  }
  auto plan_version = Id16::FromBytes(tenant->plan_version_id());
  if (!plan_version.ok()) return std::nullopt;
  auto first = [&](v1::TokenClass token_class) -> const v1::PriceLine* {
    for (const v1::PriceLine& line : tenant->lines()) {
      const bool context =
          prompt_tokens >= line.context_from() && (line.context_to() == 0 || prompt_tokens < line.context_to());
      if (context && line.token_class() == token_class && MatchesGlob(line.model_glob(), model)) return &line;
    }
    return nullptr;
  };
  const v1::PriceLine* input = first(v1::TOKEN_CLASS_INPUT);
  const v1::PriceLine* output = first(v1::TOKEN_CLASS_OUTPUT);
  if (input == nullptr || output == nullptr) return std::nullopt;
  if (input->price_micro_per_m() < 0 || output->price_micro_per_m() < 0) return std::nullopt;
  const v1::PriceLine* cached = first(v1::TOKEN_CLASS_CACHED_INPUT);
  if (cached == nullptr) cached = input;
  const v1::PriceLine* request = first(v1::TOKEN_CLASS_REQUEST);
  Prices prices;
  prices.plan_version = *plan_version;
  prices.input = input->price_micro_per_m();
  prices.input_package = input->package_size();
  prices.cached = cached->price_micro_per_m();
  prices.cached_package = cached->package_size();
  prices.output = output->price_micro_per_m();
  prices.output_package = output->package_size();
  if (request != nullptr) {
    // A package of requests is opened by one of them.
    prices.request = request->price_micro_per_m();
    if (__builtin_mul_overflow(prices.request, std::max<int64_t>(1, static_cast<int64_t>(request->package_size())),
                               &prices.request)) {
      prices.request = INT64_MAX;
    }
  }
  return prices;
}

}  // namespace gantry::gateway
