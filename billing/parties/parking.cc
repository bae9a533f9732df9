#include "billing/parties/parking.h"

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {

std::vector<ParkedParty> ParkedParties(Database& db) {
  std::vector<ParkedParty> parked;
  Rows rows = db.Query(
      "SELECT k.party_no, p.party_id, p.name, k.since_us, k.reason, "
      "(WITH RECURSIVE below(no) AS (VALUES (k.party_no) UNION "
      " SELECT c.party_no FROM party c JOIN below b ON c.parent_no = b.no) "
      " SELECT count(*) FROM parked_record r WHERE r.party_no IN (SELECT no FROM below)) "
      "FROM parked_party k JOIN party p USING (party_no) ORDER BY k.since_us, k.party_no");
  while (rows.Next()) {
    parked.push_back({rows.Int(0), rows.Id(1), rows.Text(2), rows.Int(3), rows.Text(4), rows.Int(5)});
  }
  return parked;
}

void Park(Database& db, int64_t party_no, const std::string& reason, int64_t now_us) {
  db.Execute("INSERT INTO parked_party (party_no, since_us, reason) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", party_no,
             now_us, reason);
}

absl::Status Unpark(Database& db, const std::string& party_name) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, party_name));
  if (db.Execute("DELETE FROM parked_party WHERE party_no = ?", party.party_no) == 0) {
    return absl::FailedPreconditionError(absl::StrCat("party ", party_name, " is not parked"));
  }
  return absl::OkStatus();
}

absl::Status CheckNotParked(const std::vector<PartyRow>& buyers) {
  for (const PartyRow& buyer : buyers) {
    if (!buyer.parked) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("party ", buyer.name,
                     " is parked: an audit found its books wrong; `gantry audit --parked` says why and what to do"));
  }
  return absl::OkStatus();
}

}  // namespace gantry::billing
