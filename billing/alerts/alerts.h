// What parties are told by themselves: the facts that the books hold now, against what was told before.
//
// Who hears of what: a key's budget and expiry, and credit that expires, its party; a balance and an overdue invoice,
// buyer and seller; a parked party and contradicting witnesses, the house. The rules are in
// billing/outbox/alert_rules.h.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/outbox/alert_rules.h"
#include "billing/store/database.h"

namespace gantry::billing {

std::vector<AlertFact> CollectAlertFacts(Database& db, int64_t now_us);

// Whether TellAlerts would write anything. For a query of the store.
bool AlertsChanged(Database& db, int64_t now_us);

// Writes the messages of what has risen, and how far it has, in one transaction. How many messages.
absl::StatusOr<int> TellAlerts(Database& db, int64_t now_us);

}  // namespace gantry::billing
