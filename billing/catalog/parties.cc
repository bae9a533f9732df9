#include "billing/catalog/parties.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "billing/ledger/ledger.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr size_t kNameLimit = 64;
constexpr size_t kLegalNameLimit = 256;
constexpr int64_t kCreditLimitMax = 1'000'000'000'000'000;

v1::Party ToProto(Database& db, const PartyRow& row) {
  v1::Party party;
  party.set_party_id(row.party_id.ToBytes());
  party.set_kind(row.kind);
  party.set_name(row.name);
  party.set_legal_name(row.legal_name);
  party.set_currency(row.currency);
  party.set_status(row.status);
  party.set_credit_limit_micro(row.credit_limit_micro);
  party.set_created_us(row.created_us);
  party.set_time_zone(row.time_zone);
  if (row.depth > 0) {
    absl::StatusOr<PartyRow> parent = PartyByNo(db, row.parent_no);
    if (parent.ok()) {
      party.set_parent_id(parent->party_id.ToBytes());
      party.set_parent_name(parent->name);
    }
    Rows plan = db.Query(
        "SELECT p.name FROM subscription s JOIN plan p USING (plan_no) WHERE s.party_no = ? "
        "ORDER BY s.from_us DESC LIMIT 1",
        row.party_no);
    if (plan.Next()) party.set_plan(plan.Text(0));
  }
  return party;
}

absl::Status CheckName(const std::string& name) {
  const bool good = !name.empty() && name.size() <= kNameLimit && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-';
  });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError("name: expected 1..64 characters of a-z, 0-9 and -");
}

absl::Status CheckCurrency(const std::string& currency) {
  if (currency.size() == 3 && std::all_of(currency.begin(), currency.end(), absl::ascii_isupper)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("currency: expected an ISO 4217 code such as EUR");
}

absl::Status CheckTimeZone(const std::string& name) {
  absl::TimeZone zone;
  if (name.size() <= kNameLimit && absl::LoadTimeZone(name, &zone)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("time_zone: expected an IANA name such as Europe/Berlin, found `", name, "`"));
}

absl::Status PlaceUnderParent(Database& db, const std::string& parent_name, PartyRow* row) {
  const bool sellable =
      row->kind == v1::PARTY_KIND_TENANT || row->kind == v1::PARTY_KIND_RESELLER || row->kind == v1::PARTY_KIND_PEER;
  if (!sellable) return absl::InvalidArgumentError("kind: expected house, reseller, tenant or peer");
  absl::StatusOr<PartyRow> parent = parent_name.empty() ? HouseOf(db) : PartyByName(db, parent_name);
  if (!parent.ok()) return parent.status();
  if (parent->kind != v1::PARTY_KIND_HOUSE && parent->kind != v1::PARTY_KIND_RESELLER) {
    return absl::FailedPreconditionError(absl::StrCat("parent_name: `", parent->name, "` is not a reseller"));
  }
  if (parent->status == v1::PARTY_STATUS_CLOSED) {
    return absl::FailedPreconditionError(absl::StrCat("parent_name: `", parent->name, "` is closed"));
  }
  if (parent->depth == kPartyDepthMax) {
    return absl::FailedPreconditionError(absl::StrCat("parent_name: `", parent->name, "` is at the ",
                                                      kPartyDepthMax + 1, "th level already, which is the last"));
  }
  if (row->currency.empty()) row->currency = parent->currency;
  if (parent->depth > 0 && row->currency != parent->currency) {
    return absl::FailedPreconditionError(absl::StrCat("currency: expected ", parent->currency, ", which `",
                                                      parent->name, "` buys in, found ", row->currency));
  }
  if (row->time_zone.empty()) row->time_zone = parent->time_zone;
  row->parent_no = parent->party_no;
  row->depth = parent->depth + 1;
  return absl::OkStatus();
}

absl::Status SubscribeTo(Database& db, const PartyRow& party, const std::string& plan, int64_t from_us) {
  int64_t plan_no = 0;
  {
    Rows rows = db.Query(
        "SELECT plan_no FROM plan p WHERE seller_no = ? AND name = ? AND currency = ? "
        "AND EXISTS (SELECT 1 FROM plan_version v WHERE v.plan_no = p.plan_no)",
        party.parent_no, plan, party.currency);
    if (!rows.Next()) {
      return absl::FailedPreconditionError(absl::StrCat("plan `", plan, "` has no version in ", party.currency));
    }
    plan_no = rows.Int(0);
  }
  db.Execute(
      "INSERT INTO subscription (party_no, from_us, plan_no) VALUES (?, ?, ?) "
      "ON CONFLICT (party_no, from_us) DO UPDATE SET plan_no = excluded.plan_no",
      party.party_no, from_us, plan_no);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> PageSize(uint32_t asked) {
  if (asked > 1000) return absl::InvalidArgumentError(absl::StrCat("page_size: expected 1..1000, found ", asked));
  return asked == 0 ? 100 : static_cast<int64_t>(asked);
}

absl::StatusOr<v1::Party> FindParty(Database& db, const std::string& name) {
  GANTRY_ASSIGN_OR_RETURN(PartyRow row, PartyByName(db, name));
  return ToProto(db, row);
}

absl::StatusOr<v1::Party> CreateParty(Database& db, const v1::CreatePartyRequest& request, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(CheckName(request.name()));
  if (request.legal_name().size() > kLegalNameLimit) {
    return absl::InvalidArgumentError(absl::StrCat("legal_name: expected at most ", kLegalNameLimit, " bytes"));
  }
  if (request.credit_limit_micro() < 0 || request.credit_limit_micro() > kCreditLimitMax) {
    return absl::InvalidArgumentError(absl::StrCat("credit_limit_micro: expected 0..", kCreditLimitMax));
  }
  PartyRow row{.party_id = NewTimeOrderedId(),
               .kind = request.kind(),
               .name = request.name(),
               .legal_name = request.legal_name(),
               .currency = request.currency(),
               .status = v1::PARTY_STATUS_ACTIVE,
               .credit_limit_micro = request.credit_limit_micro(),
               .time_zone = request.time_zone(),
               .created_us = now_us};
  if (row.kind == v1::PARTY_KIND_HOUSE) {
    Rows rows = db.Query("SELECT name FROM party WHERE kind = 1");
    if (rows.Next()) return absl::AlreadyExistsError(absl::StrCat("there is a house already: ", rows.Text(0)));
    if (row.time_zone.empty()) row.time_zone = "UTC";
  } else {
    GANTRY_RETURN_IF_ERROR(PlaceUnderParent(db, request.parent_name(), &row));
  }
  GANTRY_RETURN_IF_ERROR(CheckCurrency(row.currency));
  GANTRY_RETURN_IF_ERROR(CheckTimeZone(row.time_zone));
  {
    Rows rows = db.Query("SELECT 1 FROM party WHERE name = ?", row.name);
    if (rows.Next()) return absl::AlreadyExistsError(absl::StrCat("the name `", row.name, "` is taken"));
  }
  constexpr char kInsert[] =
      "INSERT INTO party (party_id, kind, name, legal_name, currency, status, parent_no, depth, credit_limit_micro, "
      "time_zone, created_us) VALUES (?, ?, ?, ?, ?, ?, nullif(?, 0), ?, ?, ?, ?)";
  db.Execute(kInsert, row.party_id, static_cast<int64_t>(row.kind), row.name, row.legal_name, row.currency,
             static_cast<int64_t>(row.status), row.parent_no, row.depth, row.credit_limit_micro, row.time_zone, now_us);
  row.party_no = db.LastRowId();
  if (row.depth > 0) {
    const std::string plan = request.plan().empty() ? "standard" : request.plan();
    GANTRY_RETURN_IF_ERROR(SubscribeTo(db, row, plan, now_us));
  }
  return ToProto(db, row);
}

absl::StatusOr<v1::Party> Subscribe(Database& db, const v1::SubscribeRequest& request, int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(PartyRow row, PartyByName(db, request.party_name()));
  if (row.depth == 0) return absl::InvalidArgumentError("the house buys from nobody");
  if (request.from_us() != 0 && request.from_us() < now_us) {
    return absl::InvalidArgumentError("from_us: expected a time to come, or 0 for now: prices do not change backwards");
  }
  GANTRY_RETURN_IF_ERROR(SubscribeTo(db, row, request.plan(), request.from_us() == 0 ? now_us : request.from_us()));
  return ToProto(db, row);
}

absl::StatusOr<v1::Party> SetPartyStatus(Database& db, const v1::SetPartyStatusRequest& request) {
  GANTRY_ASSIGN_OR_RETURN(Id16 id, Id16::FromBytes(request.party_id()));
  GANTRY_ASSIGN_OR_RETURN(PartyRow row, PartyById(db, id));
  if (request.status() < v1::PARTY_STATUS_ACTIVE || request.status() > v1::PARTY_STATUS_CLOSED) {
    return absl::InvalidArgumentError("status: expected active, suspended or closed");
  }
  if (row.status == v1::PARTY_STATUS_CLOSED && request.status() != v1::PARTY_STATUS_CLOSED) {
    return absl::FailedPreconditionError(absl::StrCat("`", row.name, "` is closed for good"));
  }
  db.Execute("UPDATE party SET status = ? WHERE party_no = ?", static_cast<int64_t>(request.status()), row.party_no);
  row.status = request.status();
  return ToProto(db, row);
}

absl::StatusOr<v1::ListPartiesResponse> ListParties(Database& db, const v1::ListPartiesRequest& request) {
  GANTRY_ASSIGN_OR_RETURN(int64_t size, PageSize(request.page_size()));
  std::vector<std::string> names;
  {
    int64_t top = 0;
    if (!request.under_name().empty()) {
      GANTRY_ASSIGN_OR_RETURN(const PartyRow under, PartyByName(db, request.under_name()));
      top = under.party_no;
    }
    // Nobody is more than three levels below anybody.
    Rows rows = db.Query(
        "SELECT p.name FROM party p LEFT JOIN party q ON q.party_no = p.parent_no "
        "LEFT JOIN party r ON r.party_no = q.parent_no WHERE p.name > ?1 AND "
        "(?2 = 0 OR ?2 IN (p.party_no, p.parent_no, q.parent_no, r.parent_no)) ORDER BY p.name LIMIT ?3",
        request.page_token(), top, size + 1);
    while (rows.Next()) names.push_back(rows.Text(0));
  }
  v1::ListPartiesResponse response;
  if (static_cast<int64_t>(names.size()) > size) {
    names.pop_back();
    response.set_next_page_token(names.back());
  }
  for (const std::string& name : names) {
    GANTRY_ASSIGN_OR_RETURN(*response.add_parties(), FindParty(db, name));
    GANTRY_ASSIGN_OR_RETURN(*response.add_balances(), GetBalance(db, name, 0));
  }
  return response;
}

absl::StatusOr<v1::Balance> GetBalance(Database& db, const std::string& party_name, int64_t as_of_us) {
  GANTRY_ASSIGN_OR_RETURN(PartyRow party, PartyByName(db, party_name));
  Funds funds = ReadFunds(db, party);
  v1::Balance balance;
  balance.set_party_id(party.party_id.ToBytes());
  balance.set_party_name(party.name);
  balance.set_currency(party.currency);
  if (as_of_us > 0) {
    Rows rows = db.Query(
        "SELECT (SELECT coalesce(sum(amount_micro), 0) FROM transfer_of_account WHERE credit_account = ?1 AND "
        "booked_us <= ?2) - "
        "(SELECT coalesce(sum(amount_micro), 0) FROM transfer_of_account WHERE debit_account = ?1 AND booked_us <= ?2)",
        funds.account_no, as_of_us);
    if (rows.Next()) funds.posted_micro = rows.Int(0);
    funds.held_micro = 0;
    funds.available_micro = funds.posted_micro + party.credit_limit_micro;
  }
  balance.set_posted_micro(funds.posted_micro);
  balance.set_held_micro(funds.held_micro);
  balance.set_available_micro(funds.available_micro);
  return balance;
}

}  // namespace gantry::billing
