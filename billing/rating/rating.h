// What usage costs, exactly.
//
// A line's money is a function of its quantity in a period (`AmountOf`), and one request costs what that function grows
// by: whatever the order in which requests come, late ones included, the requests of a period add up to the amount of
// its whole quantity. The same holds for a free allowance: what is beyond it is charged, wherever it is crossed.
//
// All amounts are pico-units (10^-12). Sums run in 128 bits; what does not fit 64 is an error, never a wrong number.
// Pure functions; no clock, no store.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "billing/rating/price_line.h"

namespace gantry::billing {

// What one request used. Cached prompt tokens are not part of `input`. A correction may take away.
struct Quantities {
  int64_t input = 0;
  int64_t cached_input = 0;
  int64_t output = 0;
  int64_t requests = 0;
  int64_t of(TokenClass token_class) const;
};

// The money of `quantity` units in one period.
__int128 AmountOf(const PriceLine& line, int64_t quantity);

struct Charge {
  int line = 0;  // index in the plan's lines
  int64_t quantity = 0;
  int64_t amount_pico = 0;  // negative where a volume tier with a lower price has been reached, and for corrections
};

// The units that a line has been charged for in this period before; asked for lines that are not flat.
using UnitsBefore = absl::FunctionRef<int64_t(int line)>;

// The charges of one request, one per class that it used. OUT_OF_RANGE: an amount does not fit int64, or a line would
// have less than no units. NOT_FOUND: no line for a class.
absl::StatusOr<std::vector<Charge>> Rate(const std::vector<PriceLine>& lines, absl::string_view model, int64_t context,
                                         const Quantities& quantities, UnitsBefore units_before);

// What of `gross_pico` is charged, `before_pico` having been rated in the period before and `allowance_micro` of it
// being free.
int64_t BeyondAllowance(__int128 before_pico, int64_t gross_pico, int64_t allowance_micro);

// Adds pico to an account's residue and returns the whole micro-units to post: below 0, to give back. The rest, less
// than one, stays in *residue. So that always: sum of posted x 10^6 + residue = sum of pico.
int64_t PostableMicro(int64_t pico, int64_t* residue);

// Pico-units to minor units (10^-digits of a unit), half away from zero: the one rounding of an invoice line.
int64_t RoundToMinor(__int128 pico, int minor_digits);

}  // namespace gantry::billing
