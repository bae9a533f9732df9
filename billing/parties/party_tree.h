// Who sells to whom: the house at the root, resellers below it, tenants as leaves. A party buys from its parent, at its
// parent's prices. The tree has at most four levels and one currency.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

inline constexpr int kPartyDepthMax = 3;  // house 0

struct PartyRow {
  int64_t party_no = 0;
  Id16 party_id;
  v1::PartyKind kind = v1::PARTY_KIND_UNSPECIFIED;
  std::string name;
  std::string legal_name;
  std::string currency;
  v1::PartyStatus status = v1::PARTY_STATUS_UNSPECIFIED;
  int64_t parent_no = 0;  // 0: the house
  int depth = 0;
  int64_t credit_limit_micro = 0;
  std::string time_zone;
  int64_t created_us = 0;
  bool parked = false;  // billing/parties/parking.h
};

// NOT_FOUND: no such party.
absl::StatusOr<PartyRow> PartyById(Database& db, const Id16& party_id);
absl::StatusOr<PartyRow> PartyByNo(Database& db, int64_t party_no);
absl::StatusOr<PartyRow> PartyByName(Database& db, const std::string& name);
// FAILED_PRECONDITION: there is none yet.
absl::StatusOr<PartyRow> HouseOf(Database& db);

// Whoever pays for usage of `buyer`, in order: itself, its reseller, the reseller above that; the house, which pays
// nobody, is not among them. With the seller of the last it is the whole chain of hops.
absl::StatusOr<std::vector<PartyRow>> BuyersAbove(Database& db, PartyRow buyer);

// Whether the party is `top_no` or below it in the tree. False: it is not, or one of the two is nobody's number.
bool IsWithin(Database& db, int64_t party_no, int64_t top_no);

}  // namespace gantry::billing
