#include "billing/catalog/parties.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "billing/ledger/ledger.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr size_t kNameLimit = 64;
constexpr size_t kLegalNameLimit = 256;
constexpr int64_t kCreditLimitMax = 1'000'000'000'000'000;

// Columns as ReadParty reads them.
#define PARTY_COLUMNS \
  "party_id, kind, name, legal_name, currency, status, parent_id, plan, credit_limit_micro, created_us"

v1::Party ReadParty(const Rows& rows) {
  v1::Party party;
  party.set_party_id(rows.Text(0));
  party.set_kind(static_cast<v1::PartyKind>(rows.Int(1)));
  party.set_name(rows.Text(2));
  party.set_legal_name(rows.Text(3));
  party.set_currency(rows.Text(4));
  party.set_status(static_cast<v1::PartyStatus>(rows.Int(5)));
  party.set_parent_id(rows.Text(6));
  party.set_plan(rows.Text(7));
  party.set_credit_limit_micro(rows.Int(8));
  party.set_created_us(rows.Int(9));
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

}  // namespace

absl::StatusOr<int64_t> PageSize(uint32_t asked) {
  if (asked > 1000) return absl::InvalidArgumentError(absl::StrCat("page_size: expected 1..1000, found ", asked));
  return asked == 0 ? 100 : static_cast<int64_t>(asked);
}

absl::StatusOr<v1::Party> FindParty(Database& db, const std::string& name) {
  Rows rows = db.Query("SELECT " PARTY_COLUMNS " FROM party WHERE name = ?", name);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no tenant named `", name, "`"));
  return ReadParty(rows);
}

absl::StatusOr<v1::Party> FindParty(Database& db, const Id16& party_id) {
  Rows rows = db.Query("SELECT " PARTY_COLUMNS " FROM party WHERE party_id = ?", party_id);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no party with id ", party_id.ToHex()));
  return ReadParty(rows);
}

absl::StatusOr<v1::Party> CreateParty(Database& db, const v1::CreatePartyRequest& request, int64_t now_us) {
  GANTRY_RETURN_IF_ERROR(CheckName(request.name()));
  if (request.legal_name().size() > kLegalNameLimit) {
    return absl::InvalidArgumentError(absl::StrCat("legal_name: expected at most ", kLegalNameLimit, " bytes"));
  }
  if (request.credit_limit_micro() < 0 || request.credit_limit_micro() > kCreditLimitMax) {
    return absl::InvalidArgumentError(absl::StrCat("credit_limit_micro: expected 0..", kCreditLimitMax));
  }
  const bool house = request.kind() == v1::PARTY_KIND_HOUSE;
  if (!house && request.kind() != v1::PARTY_KIND_TENANT) {
    return absl::InvalidArgumentError("kind: expected house or tenant");
  }
  std::string currency = request.currency();
  std::string plan;
  Id16 parent{};
  if (house) {
    Rows rows = db.Query("SELECT name FROM party WHERE kind = 1");
    if (rows.Next()) return absl::AlreadyExistsError(absl::StrCat("there is a house already: ", rows.Text(0)));
    GANTRY_RETURN_IF_ERROR(CheckCurrency(currency));
  } else {
    GANTRY_ASSIGN_OR_RETURN(House owner, HouseOf(db));
    parent = owner.party_id;
    if (currency.empty()) currency = owner.currency;
    GANTRY_RETURN_IF_ERROR(CheckCurrency(currency));
    plan = request.plan().empty() ? "standard" : request.plan();
    Rows rows = db.Query("SELECT 1 FROM plan_version WHERE plan = ? AND currency = ? LIMIT 1", plan, currency);
    if (!rows.Next()) {
      return absl::FailedPreconditionError(absl::StrCat("plan `", plan, "` has no version in ", currency));
    }
  }
  {
    Rows rows = db.Query("SELECT 1 FROM party WHERE name = ?", request.name());
    if (rows.Next()) return absl::AlreadyExistsError(absl::StrCat("the name `", request.name(), "` is taken"));
  }
  v1::Party party;
  party.set_party_id(NewTimeOrderedId().ToBytes());
  party.set_kind(request.kind());
  party.set_name(request.name());
  party.set_legal_name(request.legal_name());
  party.set_currency(currency);
  party.set_status(v1::PARTY_STATUS_ACTIVE);
  if (!house) party.set_parent_id(parent.ToBytes());
  party.set_plan(plan);
  party.set_credit_limit_micro(request.credit_limit_micro());
  party.set_created_us(now_us);
  constexpr char kInsert[] =
      "INSERT INTO party (party_id, kind, name, legal_name, currency, status, parent_id, plan, credit_limit_micro, "
      "created_us) VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?)";
  const Blob id{party.party_id()};
  const auto kind = static_cast<int64_t>(party.kind());
  if (house) {
    db.Execute(kInsert, id, kind, party.name(), party.legal_name(), currency, nullptr, plan, party.credit_limit_micro(),
               now_us);
  } else {
    db.Execute(kInsert, id, kind, party.name(), party.legal_name(), currency, parent, plan, party.credit_limit_micro(),
               now_us);
  }
  return party;
}

absl::StatusOr<v1::Party> SetPartyStatus(Database& db, const v1::SetPartyStatusRequest& request) {
  GANTRY_ASSIGN_OR_RETURN(Id16 id, Id16::FromBytes(request.party_id()));
  GANTRY_ASSIGN_OR_RETURN(v1::Party party, FindParty(db, id));
  if (request.status() < v1::PARTY_STATUS_ACTIVE || request.status() > v1::PARTY_STATUS_CLOSED) {
    return absl::InvalidArgumentError("status: expected active, suspended or closed");
  }
  if (party.status() == v1::PARTY_STATUS_CLOSED && request.status() != v1::PARTY_STATUS_CLOSED) {
    return absl::FailedPreconditionError(absl::StrCat("`", party.name(), "` is closed for good"));
  }
  db.Execute("UPDATE party SET status = ? WHERE party_id = ?", static_cast<int64_t>(request.status()), id);
  party.set_status(request.status());
  return party;
}

absl::StatusOr<v1::ListPartiesResponse> ListParties(Database& db, const v1::ListPartiesRequest& request) {
  GANTRY_ASSIGN_OR_RETURN(int64_t size, PageSize(request.page_size()));
  v1::ListPartiesResponse response;
  {
    Rows rows = db.Query("SELECT " PARTY_COLUMNS " FROM party WHERE name > ? ORDER BY name LIMIT ?",
                         request.page_token(), size + 1);
    while (rows.Next()) {
      if (response.parties_size() == size) {
        response.set_next_page_token(response.parties(static_cast<int>(size) - 1).name());
        break;
      }
      *response.add_parties() = ReadParty(rows);
    }
  }
  for (const v1::Party& party : response.parties()) {
    GANTRY_ASSIGN_OR_RETURN(*response.add_balances(), GetBalance(db, party.name(), 0));
  }
  return response;
}

absl::StatusOr<v1::Balance> GetBalance(Database& db, const std::string& party_name, int64_t as_of_us) {
  GANTRY_ASSIGN_OR_RETURN(v1::Party party, FindParty(db, party_name));
  GANTRY_ASSIGN_OR_RETURN(Id16 id, Id16::FromBytes(party.party_id()));
  GANTRY_ASSIGN_OR_RETURN(Funds funds, FundsOf(db, id));
  v1::Balance balance;
  balance.set_party_id(party.party_id());
  balance.set_party_name(party.name());
  balance.set_currency(party.currency());
  if (as_of_us > 0) {
    Rows rows = db.Query(
        "SELECT coalesce(sum(CASE WHEN credit_account = ?1 THEN amount_micro ELSE -amount_micro END), 0) FROM transfer "
        "WHERE (credit_account = ?1 OR debit_account = ?1) AND booked_us <= ?2",
        funds.account_id, as_of_us);
    if (rows.Next()) funds.posted_micro = rows.Int(0);
    funds.held_micro = 0;
    funds.available_micro = funds.posted_micro + party.credit_limit_micro();
  }
  balance.set_posted_micro(funds.posted_micro);
  balance.set_held_micro(funds.held_micro);
  balance.set_available_micro(funds.available_micro);
  return balance;
}

}  // namespace gantry::billing
