// What changes when one set of price lines replaces another. Pure.
#pragma once

#include <vector>

#include "billing/rating/price_line.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

// Compares the price of a unit wherever either set has a boundary: every glob named by either, every class, context and
// count of units at which a line or tier begins. Prices that stay are not listed.
std::vector<v1::PriceChange> DiffPrices(const std::vector<PriceLine>& from, const std::vector<PriceLine>& to);

}  // namespace gantry::billing
