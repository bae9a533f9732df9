// The gateways that the books know, and how they end: in good order, or given up by an administrator.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/gateway_admin.pb.h"
#include "services/common/ids.h"

namespace gantry::billing {

// Without what only the process knows (attached, alone). `freed_after_us`: how long after the newer epoch began what an
// older one has set aside is freed (R9).
std::vector<v1::GatewayStatus> ListGateways(Database& db, int64_t freed_after_us);
// NOT_FOUND.
absl::StatusOr<v1::GatewayStatus> FindGateway(Database& db, const Id16& gateway_id, int64_t freed_after_us);

// Fences its epoch as if it had started again: what it was granted is freed by the ordinary rule, and it is refused
// until it starts anew. NOT_FOUND: no such gateway.
absl::Status ForgetGateway(Database& db, const Id16& gateway_id, int64_t now_us);

// It went in good order; Returned: it is here again with the same epoch.
void NoteLeft(Database& db, int64_t gateway_no, int64_t now_us);
void NoteReturned(Database& db, int64_t gateway_no);

// Gateways that may still be counting on their own: all but those that have left or were forgotten.
std::vector<Id16> GatewaysThatMayRun(Database& db);

}  // namespace gantry::billing
