// Parties whose books an audit found wrong: nothing is granted, reserved or booked for them, nor for whoever buys from
// them, until somebody has looked and releases them. Others go on. Usage that is reported meanwhile is kept as it came
// (billing/usage/aside.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct ParkedParty {
  int64_t party_no = 0;
  Id16 party_id;
  std::string name;
  int64_t since_us = 0;
  std::string reason;      // the first finding
  int64_t kept_aside = 0;  // usage records of it and of whoever buys from it
};
std::vector<ParkedParty> ParkedParties(Database& db);

// A party that is parked already keeps its first reason.
void Park(Database& db, int64_t party_no, const std::string& reason, int64_t now_us);
// NOT_FOUND: no such party. FAILED_PRECONDITION: it is not parked.
absl::Status Unpark(Database& db, const std::string& party_name);

// FAILED_PRECONDITION names the first of `buyers` (a party and those above it) that is parked.
absl::Status CheckNotParked(const std::vector<PartyRow>& buyers);

}  // namespace gantry::billing
