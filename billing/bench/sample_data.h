// Months of a made-up business, for demonstrations and tests: parties with plans, keys and credit, both witnesses of
// their requests, invoices of the months that are over. Written through the same commands as the real thing, with the
// times of the past, so that every audit holds.
//
// The same seed gives the same parties, quantities and money; ids and keys are always new.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "billing/store/store.h"
#include "services/common/secret.h"

namespace gantry::billing {

struct SampleDataOptions {
  int months = 6;             // 1..36, the last one under way
  int parties = 20;           // 2..500: a fifth of them resellers
  int requests_per_day = 20;  // 1..10'000, of a tenant on a working day
  uint64_t seed = 1;
  int64_t end_us = 0;  // the present
};
struct SampleDataReport {
  int resellers = 0, tenants = 0, keys = 0, invoices = 0;
  int64_t requests = 0;
};

// Books with a house get the parties beside those they have, others a house first. ALREADY_EXISTS: sample parties are
// there. INVALID_ARGUMENT names the option.
absl::StatusOr<SampleDataReport> FillWithSampleData(Store& store, const Secret& pepper,
                                                    const SampleDataOptions& options);

}  // namespace gantry::billing
