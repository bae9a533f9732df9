// Proves the books. Reads everything, trusts nothing that is derived: sums are recomputed from rows, usage is rated
// again, chains are hashed again. Read only, one pass over each table, a few MB of memory beside what the number of
// parties, keys and months needs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "billing/store/database.h"
#include "gantry/v1/admin.pb.h"

namespace gantry::billing {

// Something that is not as it must be.
struct Finding {
  std::string check;     // by its name in the report
  std::string row;       // "transfer 17", "rating 3/0", "hold 0a…"; a table and its key
  std::string detail;    // what was expected and found
  int64_t party_no = 0;  // whose books are wrong by it; 0: nobody's in particular, or the house's
};

struct AuditResult {
  v1::AuditReport report;
  std::vector<Finding> findings;  // at most 1000
};
AuditResult AuditBooks(Database& db);

// The report alone.
v1::AuditReport Audit(Database& db);

}  // namespace gantry::billing
