#include "billing/parties/party_tree.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

// Columns as Read reads them.
#define PARTY_COLUMNS                                                                                                 \
  "party_no, party_id, kind, name, legal_name, currency, status, coalesce(parent_no, 0), depth, credit_limit_micro, " \
  "time_zone, created_us, EXISTS (SELECT 1 FROM parked_party k WHERE k.party_no = party.party_no)"

PartyRow Read(const Rows& rows) {
  return {.party_no = rows.Int(0),
          .party_id = rows.Id(1),
          .kind = static_cast<v1::PartyKind>(rows.Int(2)),
          .name = rows.Text(3),
          .legal_name = rows.Text(4),
          .currency = rows.Text(5),
          .status = static_cast<v1::PartyStatus>(rows.Int(6)),
          .parent_no = rows.Int(7),
          .depth = static_cast<int>(rows.Int(8)),
          .credit_limit_micro = rows.Int(9),
          .time_zone = rows.Text(10),
          .created_us = rows.Int(11),
          .parked = rows.Int(12) != 0};
}

}  // namespace

absl::StatusOr<PartyRow> PartyById(Database& db, const Id16& party_id) {
  Rows rows = db.Query("SELECT " PARTY_COLUMNS " FROM party WHERE party_id = ?", party_id);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no party with id ", party_id.ToHex()));
  return Read(rows);
}

absl::StatusOr<PartyRow> PartyByNo(Database& db, int64_t party_no) {
  Rows rows = db.Query("SELECT " PARTY_COLUMNS " FROM party WHERE party_no = ?", party_no);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no party number ", party_no));
  return Read(rows);
}

absl::StatusOr<PartyRow> PartyByName(Database& db, const std::string& name) {
  Rows rows = db.Query("SELECT " PARTY_COLUMNS " FROM party WHERE name = ?", name);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no party named `", name, "`"));
  return Read(rows);
}

absl::StatusOr<PartyRow> HouseOf(Database& db) {
  Rows rows = db.Query("SELECT " PARTY_COLUMNS " FROM party WHERE kind = 1");
  if (!rows.Next()) {
    return absl::FailedPreconditionError("there is no house party yet; create one of kind house first");
  }
  return Read(rows);
}

absl::StatusOr<std::vector<PartyRow>> BuyersAbove(Database& db, PartyRow buyer) {
  std::vector<PartyRow> buyers;
  while (buyer.depth > 0) {
    const int64_t parent = buyer.parent_no;
    const bool more = buyer.depth > 1;
    buyers.push_back(std::move(buyer));
    if (!more) break;
    GANTRY_ASSIGN_OR_RETURN(buyer, PartyByNo(db, parent));
  }
  return buyers;
}

bool IsWithin(Database& db, int64_t party_no, int64_t top_no) {
  for (int level = 0; level <= kPartyDepthMax; ++level) {
    Rows rows = db.Query("SELECT coalesce(parent_no, 0) FROM party WHERE party_no = ?", party_no);
    if (!rows.Next()) return false;
    if (party_no == top_no) return true;
    party_no = rows.Int(0);
  }
  return false;
}

}  // namespace gantry::billing
