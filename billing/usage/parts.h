// What an event is charged for.
#pragma once

#include <vector>

#include "billing/store/database.h"
#include "billing/usage/event.h"
#include "billing/usage/hops.h"

namespace gantry::billing {

// The parts of an event as they were rated: all of a request; for a correction what was billed before, taken away, and
// what is right. Nothing for what nobody is charged for.
std::vector<UsagePart> BilledParts(Database& db, const UsageEvent& event);

}  // namespace gantry::billing
