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
  std::string reason;  // the first finding
  std::vector<std::string> findings;
  int64_t kept_aside = 0;  // usage records of it and of whoever buys from it
};
std::vector<ParkedParty> ParkedParties(Database& db);

// Parks a party for what an audit found in one row of its books, `subject`, unless that was accepted when the party was
// released before. At most 100 findings a party are kept. False: accepted.
bool Park(Database& db, int64_t party_no, const std::string& subject, const std::string& detail, int64_t now_us);
// Whether Park would: for audits, which look before they write.
bool IsAccepted(Database& db, int64_t party_no, const std::string& subject, const std::string& detail);
// Accepts what was found of it. NOT_FOUND: no such party. FAILED_PRECONDITION: it is not parked.
absl::Status Unpark(Database& db, const std::string& party_name);

// FAILED_PRECONDITION names the first of `buyers` (a party and those above it) that is parked.
absl::Status CheckNotParked(const std::vector<PartyRow>& buyers);

}  // namespace gantry::billing
