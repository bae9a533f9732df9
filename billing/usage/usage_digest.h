// The salted digests of a request's token ids, kept beside its usage event for the receipt (R12). The nonce never comes
// here: it is the tenant's alone.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "billing/store/database.h"
#include "gantry/v1/billing.pb.h"

namespace gantry::billing {

// INVALID_ARGUMENT unless each is empty or has 32 bytes.
absl::Status CheckDigests(const v1::UsageRecord& record);

// Nothing when the gateway sent none. In the transaction that records the event.
void RecordDigests(Database& db, int64_t event_seq, const v1::UsageRecord& record);

}  // namespace gantry::billing
