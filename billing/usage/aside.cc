#include "billing/usage/aside.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "billing/usage/usage.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

// Parties that are parked and whoever buys from them.
#define BLOCKED                                                             \
  "WITH RECURSIVE blocked(no) AS (SELECT party_no FROM parked_party UNION " \
  "SELECT p.party_no FROM party p JOIN blocked b ON p.parent_no = b.no) "

std::string WithoutAge(v1::UsageRecord record) {
  record.clear_age_ms();
  return record.SerializeAsString();
}

}  // namespace

bool KeepAside(Database& db, const v1::UsageRecord& record, int64_t party_no, int64_t now_us) {
  {
    Rows rows = db.Query("SELECT record FROM parked_record WHERE record_id = ?", Blob{record.record_id()});
    if (rows.Next()) {
      v1::UsageRecord known;
      return known.ParseFromString(rows.Text(0)) && WithoutAge(std::move(known)) == WithoutAge(record);
    }
  }
  db.Execute("INSERT INTO parked_record (record_id, party_no, record, received_us) VALUES (?, ?, ?, ?)",
             Blob{record.record_id()}, party_no, Blob{record.SerializeAsString()}, now_us);
  return true;
}

int64_t CountAside(Database& db) {
  Rows rows = db.Query(BLOCKED "SELECT count(*) FROM parked_record WHERE party_no NOT IN (SELECT no FROM blocked)");
  return rows.Next() ? rows.Int(0) : 0;
}

absl::StatusOr<int> BookAside(Database& db, int64_t now_us, int limit) {
  v1::UsageBatch batch;
  std::vector<std::string> ids;
  {
    Rows rows = db.Query(BLOCKED
                         "SELECT record, received_us, record_id FROM parked_record "
                         "WHERE party_no NOT IN (SELECT no FROM blocked) ORDER BY received_us, record_id LIMIT ?",
                         limit);
    while (rows.Next()) {
      v1::UsageRecord* record = batch.add_records();
      if (!record->ParseFromString(rows.Text(0)))
        return absl::DataLossError("a usage record kept aside cannot be read");
      record->set_age_ms(record->age_ms() + static_cast<uint64_t>(std::max<int64_t>(0, now_us - rows.Int(1))) / 1000);
      ids.push_back(rows.Text(2));
    }
  }
  if (ids.empty()) return 0;
  for (const std::string& id : ids) db.Execute("DELETE FROM parked_record WHERE record_id = ?", Blob{id});
  GANTRY_RETURN_IF_ERROR(AppendUsage(db, batch, now_us).status());
  return static_cast<int>(ids.size());
}

}  // namespace gantry::billing
