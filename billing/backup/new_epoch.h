// What a restore changes in the books beside bringing them back: the edge where other parts say what a new epoch means
// for them.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "billing/store/command_log.h"
#include "billing/store/database.h"

namespace gantry::billing {

struct RestoreFacts {
  int64_t now_us = 0;
  int64_t backup_us = 0;
  int64_t last_us = 0;    // the last commit that came back
  bool complete = false;  // everything acknowledged came back
};

// Inside a transaction: the next epoch begins at `position`, gateways of before are fenced, the restore is written
// down.
absl::Status BeginEpoch(Database& database, const BooksPosition& position, const RestoreFacts& facts);

}  // namespace gantry::billing
