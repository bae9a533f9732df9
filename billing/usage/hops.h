// One request's usage at the price of every hop: tenant → reseller → … → house. Each buyer pays its own seller, at the
// version that was in force when the request's money was set aside, for the same quantities.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/credit.h"
#include "billing/parties/party_tree.h"
#include "billing/rating/rating.h"
#include "billing/usage/usage_book.h"

namespace gantry::billing {

// A part of what is booked: all of a request, or for a correction what is taken away and what comes instead.
struct UsagePart {
  Quantities quantities;
  int64_t context = 0;  // prompt tokens of the request
};

struct Hop {
  PartyRow buyer;
  int64_t seller_no = 0;
  std::shared_ptr<const PlanTerms> terms;
  int64_t period = 0;
  int64_t period_from_us = 0;
  bool late = false;  // its own period's invoice is final
  std::vector<Charge> charges;
  int64_t net_pico = 0;  // beyond the allowance
};

struct HopInput {
  PartyRow tenant;
  // Of the first levels: the tenant's as pinned at admission, for a correction all as rated. The others' are those in
  // force at pinned_us.
  std::vector<std::shared_ptr<const PlanTerms>> terms;
  std::string model;
  std::vector<UsagePart> parts;
  int64_t pinned_us = 0;  // when the request's money was set aside
  int64_t ended_us = 0;   // whose period it stands in
};
// Level 0 first. Reads rollups, changes nothing but new periods. OUT_OF_RANGE, NOT_FOUND: it cannot be rated.
absl::StatusOr<std::vector<Hop>> RateHops(UsageBook& book, const HopInput& input);

struct Booking {
  int64_t event_seq = 0;
  Id16 request_id;  // of a correction: whose events were paid for; else zero
  int64_t model_no = 0;
  CreditRef credit;
  int64_t now_us = 0;
};
// What an event came to for the tenant, in micro-units beyond residues; negative: given back.
struct Charged {
  int64_t micro = 0;
  int64_t returned_micro = 0;  // of what was given back: to the tenant, and not to the house
};
// Rating rows, rollups and money of an event that is recorded already: what was held pays first, what it does not cover
// is the house's.
absl::StatusOr<Charged> BookHops(UsageBook& book, const std::vector<Hop>& hops, const Booking& booking);

}  // namespace gantry::billing
