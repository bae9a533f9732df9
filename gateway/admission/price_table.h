// What each tenant pays now, kept current by billing's stream. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "services/common/ids.h"

namespace gantry::v1 {
class PriceEvent;
class TenantPrices;
}  // namespace gantry::v1

namespace gantry::gateway {

// Prices of one tenant, model and length of prompt, pinned by a request at admission. Micro-units per million; where
// tiers make the price depend on what the month has used, the dearest.
struct Prices {
  Id16 plan_version;
  int64_t input = 0;
  int64_t cached = 0;
  int64_t output = 0;
  int64_t request = 0;
  // Tokens of a package, 0 when they are sold singly. A request may open one more than it fills.
  uint64_t input_package = 0, cached_package = 0, output_package = 0;

  // Rounded up to whole micro-units: what must be held so that the exact amount fits. Saturates at INT64_MAX.
  int64_t CostMicro(uint64_t prompt_tokens, uint64_t cached_tokens, uint64_t output_tokens) const;
  // The most that a request can cost, whatever part of its prompt turns out to be cached.
  int64_t HoldMicro(uint64_t prompt_tokens, uint64_t output_tokens) const;
  // Further output of a request that is held already.
  int64_t OutputMicro(uint64_t tokens) const;
};

class PriceTable {
 public:
  PriceTable();
  ~PriceTable();
  uint64_t Apply(const v1::PriceEvent& event);
  // Whether billing has said what there is.
  bool loaded() const;
  // None: the tenant has no plan, or no line of it covers the model's input and output.
  std::optional<Prices> Find(const Id16& party, absl::string_view model, uint64_t prompt_tokens) const;

 private:
  mutable absl::Mutex mu_;
  absl::flat_hash_map<Id16, std::shared_ptr<const v1::TenantPrices>> tenants_ ABSL_GUARDED_BY(mu_);
  bool loaded_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace gantry::gateway
