// Administrative commands happen once and leave a trace.
//
// `Once` runs a command under its idempotency key: the same key with the same request gives the first answer again,
// with another request ALREADY_EXISTS. Answer, effect and audit row are one transaction.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "billing/store/database.h"
#include "google/protobuf/message_lite.h"

namespace gantry::billing {

struct AdminCall {
  const char* method = "";      // "CreateParty"
  std::string actor = "admin";  // who calls; others' idempotency keys are not its own
  std::string idempotency_key;  // 1..128 bytes, checked here
  std::string object;           // for the audit log: what it is about
  std::string detail;           // for the audit log: never a secret
  int64_t now_us = 0;
  const google::protobuf::MessageLite* request = nullptr;
};

// `run` fills *response. *repeated (may be null): the answer is an earlier one.
absl::Status Once(Database& db, const AdminCall& call, google::protobuf::MessageLite* response,
                  const std::function<absl::Status()>& run, bool* repeated = nullptr);

// Keys are kept for 400 days, then pruned: a repeat after that is a new request. Removes at most `limit` that are
// older; how many it were.
inline constexpr int64_t kIdempotencyKeptUs = int64_t{400} * 86'400'000'000;
int64_t PruneIdempotency(Database& db, int64_t now_us, int limit);
// Whether PruneIdempotency has something to do.
bool AnyIdempotencyToPrune(Database& db, int64_t now_us);

std::string AuditRowHash(const std::string& previous, int64_t seq, int64_t at_us, const std::string& actor,
                         const std::string& action, const std::string& object, const std::string& detail);

}  // namespace gantry::billing
