// Who takes part: the house, resellers and peers, tenants; what they buy, and their status.
//
// Functions that change run inside a write command, the others in a read. Errors name the field, what was expected and
// found: INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS (name taken), FAILED_PRECONDITION (no house, no such plan of the
// parent, a parent that cannot sell, a foreign currency below a reseller).
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

absl::StatusOr<v1::Party> CreateParty(Database& db, const v1::CreatePartyRequest& request, int64_t now_us);
// From when on another plan of its parent prices it.
absl::StatusOr<v1::Party> Subscribe(Database& db, const v1::SubscribeRequest& request, int64_t now_us);
absl::StatusOr<v1::Party> SetPartyStatus(Database& db, const v1::SetPartyStatusRequest& request);
absl::StatusOr<v1::ListPartiesResponse> ListParties(Database& db, const v1::ListPartiesRequest& request);

absl::StatusOr<v1::Party> FindParty(Database& db, const std::string& name);

// Now; `as_of_us` > 0: posted from the transfers booked until then, held unknown and 0.
absl::StatusOr<v1::Balance> GetBalance(Database& db, const std::string& party_name, int64_t as_of_us);

// 1..1000, 0: 100.
absl::StatusOr<int64_t> PageSize(uint32_t asked);

}  // namespace gantry::billing
