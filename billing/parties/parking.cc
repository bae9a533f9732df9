#include "billing/parties/parking.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int kFindingsMax = 100;  // of a party

}  // namespace

std::vector<ParkedParty> ParkedParties(Database& db) {
  std::vector<ParkedParty> parked;
  Rows rows = db.Query(
      "SELECT k.party_no, p.party_id, p.name, k.since_us, k.reason, "
      "(WITH RECURSIVE below(no) AS (VALUES (k.party_no) UNION "
      " SELECT c.party_no FROM party c JOIN below b ON c.parent_no = b.no) "
      " SELECT count(*) FROM parked_record r WHERE r.party_no IN (SELECT no FROM below)) "
      "FROM parked_party k JOIN party p USING (party_no) ORDER BY k.since_us, k.party_no");
  while (rows.Next()) {
    ParkedParty party{rows.Int(0), rows.Id(1), rows.Text(2), rows.Int(3), rows.Text(4), {}, rows.Int(5)};
    Rows found = db.Query(
        "SELECT subject, detail FROM parked_finding WHERE party_no = ? AND accepted = 0 ORDER BY subject, detail",
        party.party_no);
    while (found.Next()) party.findings.push_back(absl::StrCat(found.Text(0), ": ", found.Text(1)));
    parked.push_back(std::move(party));
  }
  return parked;
}

bool IsAccepted(Database& db, int64_t party_no, const std::string& subject, const std::string& detail) {
  Rows rows =
      db.Query("SELECT 1 FROM parked_finding WHERE party_no = ? AND subject = ? AND detail = ? AND accepted = 1",
               party_no, subject, detail);
  return rows.Next();
}

bool Park(Database& db, int64_t party_no, const std::string& subject, const std::string& detail, int64_t now_us) {
  if (IsAccepted(db, party_no, subject, detail)) return false;
  db.Execute("INSERT INTO parked_party (party_no, since_us, reason) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", party_no,
             now_us, absl::StrCat(subject, ": ", detail));
  db.Execute(
      "INSERT INTO parked_finding (party_no, subject, detail) SELECT ?1, ?2, ?3 "
      "WHERE (SELECT count(*) FROM parked_finding WHERE party_no = ?1 AND accepted = 0) < ?4 "
      "ON CONFLICT DO NOTHING",
      party_no, subject, detail, kFindingsMax);
  return true;
}

absl::Status Unpark(Database& db, const std::string& party_name) {
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByName(db, party_name));
  db.Execute("UPDATE parked_finding SET accepted = 1 WHERE party_no = ?", party.party_no);
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
