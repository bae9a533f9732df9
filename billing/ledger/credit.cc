#include "billing/ledger/credit.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "billing/ledger/credit_hops.h"
#include "billing/ledger/key_budget.h"
#include "billing/ledger/ledger.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

absl::StatusOr<Id16> IdField(const char* name, const std::string& bytes) {
  absl::StatusOr<Id16> id = Id16::FromBytes(bytes);
  if (!id.ok() || id->IsZero()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": expected 16 bytes, not all zero, found ", bytes.size()));
  }
  return *id;
}

struct HoldRow {
  v1::HoldResponse response;
  Id16 hold_id;
  int64_t party_no = 0;
  int64_t extensions = 0;
  int64_t last_extension_micro = 0;
};

absl::StatusOr<HoldRow> FindHold(Database& db, const std::string& hold_id) {
  GANTRY_ASSIGN_OR_RETURN(Id16 id, IdField("hold_id", hold_id));
  Rows rows = db.Query(
      "SELECT party_no, state, held_micro, settled_micro, extensions, last_extension_micro FROM hold WHERE hold_id = ?",
      id);
  if (!rows.Next()) return absl::NotFoundError(absl::StrCat("no hold ", id.ToHex()));
  HoldRow hold;
  hold.hold_id = id;
  hold.party_no = rows.Int(0);
  hold.response.set_hold_id(hold_id);
  hold.response.set_state(static_cast<v1::HoldState>(rows.Int(1)));
  hold.response.set_held_micro(rows.Int(2));
  hold.response.set_settled_micro(rows.Int(3));
  hold.extensions = rows.Int(4);
  hold.last_extension_micro = rows.Int(5);
  return hold;
}

// Without any usage.
absl::Status EndHold(Database& db, HoldRow& hold, v1::HoldState state) {
  GANTRY_ASSIGN_OR_RETURN(PartyRow party, PartyByNo(db, hold.party_no));
  db.Execute(
      "UPDATE hold SET state = ?1, seal = gantry_row_hash(hold_id, party_no, gateway_no, gateway_epoch, request_id, "
      "first_micro, held_micro, settled_micro, extensions, last_extension_micro, ?1, granted_us) WHERE hold_id = ?2",
      static_cast<int64_t>(state), hold.hold_id);
  Journal journal(db);
  journal.ChangeHeld(journal.Open(party.party_no, "customer", party.currency), -hold.response.held_micro());
  ReturnAbove(journal, hold.hold_id, 0, /*close=*/true);
  ReturnToBudget(db, hold.hold_id, 0, /*close=*/true);
  hold.response.set_state(state);
  return absl::OkStatus();
}

}  // namespace

// ---- slices ----

absl::StatusOr<int64_t> EnterEpoch(Database& db, const Id16& gateway, uint64_t epoch, int64_t now_us) {
  int64_t number = 0, newest = 0;
  {
    Rows rows = db.Query("SELECT gateway_no, epoch FROM gateway WHERE gateway_id = ?", gateway);
    if (rows.Next()) {
      number = rows.Int(0);
      newest = rows.Int(1);
    }
  }
  if (number == 0) {
    db.Execute("INSERT INTO gateway (gateway_id, epoch, since_us) VALUES (?, ?, ?)", gateway, epoch, now_us);
    return db.LastRowId();
  }
  if (static_cast<int64_t>(epoch) < newest) {
    return absl::AbortedError(
        absl::StrCat("gateway epoch ", epoch, " is fenced: the gateway has started again as ", newest));
  }
  if (static_cast<int64_t>(epoch) > newest) {
    db.Execute("UPDATE gateway SET epoch = ?, since_us = ? WHERE gateway_no = ?", epoch, now_us, number);
    db.Execute("DELETE FROM gateway_end WHERE gateway_no = ?", number);
  }
  return number;
}

namespace {

// Whether somebody other than the gateway's own slices of this party, or of this key, has money that may come back.
bool OthersHold(Database& db, const CreditScope& scope, const Id16& gateway, const PartyRow& party, const Id16& key) {
  const std::vector<Lender> lenders = LendersOf(db, scope);
  if (scope.kind == CreditScope::kReseller || lenders.empty()) return !lenders.empty();
  for (const Lender& lender : lenders) {
    if (lender.gateway_id != gateway) return true;
    if (scope.kind == CreditScope::kBudget && lender.key_id != key) return true;
  }
  if (scope.kind == CreditScope::kBudget) return false;
  Rows rows =
      db.Query("SELECT 1 FROM key_budget JOIN api_key USING (key_no) WHERE party_no = ? LIMIT 1", party.party_no);
  return rows.Next();  // slices of keys with budgets are not those of the others
}

// What a period has left to run bounds the slices that count in it.
uint64_t LifeMs(const Budget& budget, int64_t now_us) {
  return static_cast<uint64_t>(std::min(kSliceLifeMs, (budget.to_us - now_us) / 1000));
}

}  // namespace

absl::StatusOr<v1::GrantSliceResponse> GrantSlice(Database& db, const v1::GrantSliceRequest& request, int64_t now_us,
                                                  const Lending& lending) {
  GANTRY_ASSIGN_OR_RETURN(Id16 slice, IdField("slice_id", request.slice_id()));
  GANTRY_ASSIGN_OR_RETURN(Id16 gateway, IdField("gateway_id", request.gateway_id()));
  GANTRY_ASSIGN_OR_RETURN(Id16 party_id, IdField("party_id", request.party_id()));
  if (request.minimum_micro() <= 0 || request.wanted_micro() < request.minimum_micro()) {
    return absl::InvalidArgumentError("expected 0 < minimum_micro <= wanted_micro");
  }
  GANTRY_ASSIGN_OR_RETURN(const int64_t gateway_no, EnterEpoch(db, gateway, request.gateway_epoch(), now_us));
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyById(db, party_id));
  Budget budget;
  Id16 key_id;
  if (!request.key_id().empty()) {
    GANTRY_ASSIGN_OR_RETURN(key_id, IdField("key_id", request.key_id()));
    GANTRY_ASSIGN_OR_RETURN(budget, BudgetOf(db, party, key_id, now_us));
  }

  v1::GrantSliceResponse response;
  response.set_slice_id(request.slice_id());
  response.set_currency(party.currency);
  response.set_ttl_ms(LifeMs(budget, now_us));
  Journal journal(db);
  GANTRY_ASSIGN_OR_RETURN(CreditScopes scopes, CreditScopes::Of(journal, party, budget));
  response.set_available_micro(scopes.available_micro());
  {
    Rows rows = db.Query(
        "SELECT party_no, gateway_no, wanted_micro, minimum_micro, granted_micro FROM slice WHERE slice_id = ?", slice);
    if (rows.Next()) {
      if (rows.Int(0) != party.party_no || rows.Int(1) != gateway_no || rows.Int(2) != request.wanted_micro() ||
          rows.Int(3) != request.minimum_micro()) {
        return absl::AlreadyExistsError(absl::StrCat("slice ", slice.ToHex(), " was asked for with other contents"));
      }
      response.set_granted_micro(rows.Int(4));
      return response;
    }
  }
  for (const CreditScope& scope : scopes.all()) {
    if (scope.left_micro() < request.minimum_micro()) return scopes.Refuse(scope, request.minimum_micro());
  }
  bool reserve = response.ttl_ms() < kLeastSliceLifeMs;
  for (const CreditScope& scope : scopes.all()) {
    reserve = reserve || (lending.gateways > 1 && scope.left_micro() / lending.gateways < request.wanted_micro()) ||
              (lending.called_back && lending.called_back(scope));
  }
  if (const CreditScope* scope = scopes.ShortOf(request.minimum_micro()); scope != nullptr && !reserve) {
    if (!OthersHold(db, *scope, gateway, party, key_id)) return scopes.Refuse(*scope, request.minimum_micro());
    reserve = true;
  }
  if (reserve) {
    response.set_reserve(true);
    return response;
  }
  response.set_granted_micro(std::min(request.wanted_micro(), scopes.available_micro()));
  scopes.Hold(slice, response.granted_micro());
  response.set_available_micro(response.available_micro() - response.granted_micro());
  db.Execute(
      "INSERT INTO slice (slice_id, party_no, gateway_no, gateway_epoch, wanted_micro, minimum_micro, granted_micro, "
      "open, granted_us) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?)",
      slice, party.party_no, gateway_no, request.gateway_epoch(), request.wanted_micro(), request.minimum_micro(),
      response.granted_micro(), now_us);
  return response;
}

absl::StatusOr<v1::ReturnSliceResponse> ReturnSlice(Database& db, const v1::ReturnSliceRequest& request,
                                                    int64_t now_us) {
  GANTRY_ASSIGN_OR_RETURN(Id16 slice, IdField("slice_id", request.slice_id()));
  Rows rows = db.Query(
      "SELECT party_no, granted_micro, spent_micro, returned_micro, open FROM slice WHERE slice_id = ?", slice);
  v1::ReturnSliceResponse response;
  if (!rows.Next()) {
    if (!request.close()) return absl::NotFoundError(absl::StrCat("no slice ", slice.ToHex()));
    db.Execute(
        "INSERT INTO slice (slice_id, party_no, gateway_no, gateway_epoch, wanted_micro, minimum_micro, granted_micro, "
        "open, granted_us, seal) VALUES (?1, 0, 0, 0, 0, 0, 0, 0, ?2, "
        "gantry_row_hash(?1, 0, 0, 0, 0, 0, 0, 0, 0, 0, ?2))",
        slice, now_us);
    return response;
  }
  const int64_t granted = rows.Int(1), spent = rows.Int(2), returned = rows.Int(3);
  if (rows.Int(4) == 0) return response;  // closed: nothing is set aside any more, a repeat changes nothing
  if (request.returned_micro() < 0) return absl::InvalidArgumentError("returned_micro: expected >= 0");
  int64_t now_returned = std::max(returned, request.returned_micro());
  // Closing gives back whatever is left; before that, no more than is there.
  if (request.close()) now_returned = granted - spent;
  if (now_returned > granted - spent) {
    return absl::InvalidArgumentError(absl::StrCat("returned_micro: expected at most ", granted - spent, " (granted ",
                                                   granted, ", spent ", spent, "), found ", request.returned_micro()));
  }
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByNo(db, rows.Int(0)));
  db.Execute(
      "UPDATE slice SET returned_micro = ?1, open = ?2, seal = iif(?2 = 1, NULL, gantry_row_hash(slice_id, party_no, "
      "gateway_no, gateway_epoch, wanted_micro, minimum_micro, granted_micro, spent_micro, ?1, ?2, granted_us)) "
      "WHERE slice_id = ?3",
      now_returned, request.close() ? 0 : 1, slice);
  Journal journal(db);
  journal.ChangeHeld(journal.Open(party.party_no, "customer", party.currency), returned - now_returned);
  ReturnAbove(journal, slice, now_returned - returned, request.close());
  ReturnToBudget(db, slice, now_returned - returned, request.close());
  response.set_remaining_micro(granted - spent - now_returned);
  return response;
}

// ---- holds ----

namespace {

// Of every scope, or of none.
absl::Status SetAside(Database& db, const PartyRow& party, Budget budget, const Id16& hold, int64_t micro,
                      CreditScope* short_of) {
  Journal journal(db);
  GANTRY_ASSIGN_OR_RETURN(CreditScopes scopes, CreditScopes::Of(journal, party, std::move(budget)));
  if (const CreditScope* scope = scopes.ShortOf(micro)) {
    if (short_of != nullptr) *short_of = *scope;
    return scopes.Refuse(*scope, micro);
  }
  scopes.Hold(hold, micro);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::HoldResponse> Reserve(Database& db, const v1::ReserveRequest& request, int64_t now_us,
                                         CreditScope* short_of) {
  GANTRY_ASSIGN_OR_RETURN(Id16 hold, IdField("hold_id", request.hold_id()));
  GANTRY_ASSIGN_OR_RETURN(Id16 gateway, IdField("gateway_id", request.gateway_id()));
  GANTRY_ASSIGN_OR_RETURN(Id16 party_id, IdField("party_id", request.party_id()));
  GANTRY_ASSIGN_OR_RETURN(Id16 key_id, IdField("key_id", request.key_id()));
  GANTRY_ASSIGN_OR_RETURN(Id16 request_id, IdField("request_id", request.request_id()));
  GANTRY_RETURN_IF_ERROR(IdField("plan_version_id", request.plan_version_id()).status());
  if (request.amount_micro() <= 0) return absl::InvalidArgumentError("amount_micro: expected > 0");
  GANTRY_ASSIGN_OR_RETURN(const int64_t gateway_no, EnterEpoch(db, gateway, request.gateway_epoch(), now_us));
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyById(db, party_id));
  {
    Rows rows = db.Query("SELECT party_no, request_id, first_micro FROM hold WHERE hold_id = ?", hold);
    if (rows.Next()) {
      if (rows.Int(0) != party.party_no || rows.Id(1) != request_id || rows.Int(2) != request.amount_micro()) {
        return absl::AlreadyExistsError(absl::StrCat("hold ", hold.ToHex(), " was asked for with other contents"));
      }
      GANTRY_ASSIGN_OR_RETURN(HoldRow row, FindHold(db, request.hold_id()));
      return row.response;
    }
  }
  {
    Rows rows = db.Query("SELECT 1 FROM voided_hold WHERE hold_id = ?", hold);
    if (rows.Next()) return absl::AlreadyExistsError(absl::StrCat("hold ", hold.ToHex(), " has been voided"));
  }
  GANTRY_ASSIGN_OR_RETURN(Budget budget, BudgetOf(db, party, key_id, now_us));
  GANTRY_RETURN_IF_ERROR(SetAside(db, party, std::move(budget), hold, request.amount_micro(), short_of));
  db.Execute(
      "INSERT INTO hold (hold_id, party_no, gateway_no, gateway_epoch, request_id, first_micro, held_micro, state, "
      "granted_us) VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?)",
      hold, party.party_no, gateway_no, request.gateway_epoch(), request_id, request.amount_micro(),
      request.amount_micro(), now_us);
  GANTRY_ASSIGN_OR_RETURN(HoldRow row, FindHold(db, request.hold_id()));
  return row.response;
}

absl::StatusOr<v1::HoldResponse> ExtendHold(Database& db, const v1::ExtendHoldRequest& request, CreditScope* short_of) {
  GANTRY_ASSIGN_OR_RETURN(HoldRow hold, FindHold(db, request.hold_id()));
  if (request.add_micro() <= 0) return absl::InvalidArgumentError("add_micro: expected > 0");
  if (request.extension() == hold.extensions && request.add_micro() == hold.last_extension_micro) return hold.response;
  if (request.extension() != hold.extensions + 1) {
    return absl::AlreadyExistsError(
        absl::StrCat("extension: expected ", hold.extensions + 1, ", found ", request.extension()));
  }
  if (hold.response.state() != v1::HOLD_STATE_PENDING) return absl::FailedPreconditionError("the hold has ended");
  GANTRY_ASSIGN_OR_RETURN(const PartyRow party, PartyByNo(db, hold.party_no));
  Budget budget = BudgetOfCredit(db, hold.hold_id);
  GANTRY_RETURN_IF_ERROR(SetAside(db, party, std::move(budget), hold.hold_id, request.add_micro(), short_of));
  db.Execute("UPDATE hold SET held_micro = held_micro + ?, extensions = ?, last_extension_micro = ? WHERE hold_id = ?",
             request.add_micro(), request.extension(), request.add_micro(), Blob{request.hold_id()});
  GANTRY_ASSIGN_OR_RETURN(hold, FindHold(db, request.hold_id()));
  return hold.response;
}

absl::StatusOr<v1::HoldResponse> SettleHold(Database& db, const v1::SettleHoldRequest& request) {
  GANTRY_ASSIGN_OR_RETURN(HoldRow hold, FindHold(db, request.hold_id()));
  if (hold.response.state() == v1::HOLD_STATE_SETTLED) {
    if (hold.response.settled_micro() == request.amount_micro()) return hold.response;
    return absl::AlreadyExistsError(absl::StrCat("the hold was settled with ", hold.response.settled_micro()));
  }
  if (hold.response.state() != v1::HOLD_STATE_PENDING) return absl::FailedPreconditionError("the hold has ended");
  if (request.amount_micro() != 0) {
    return absl::InvalidArgumentError("amount_micro: expected 0; what a request costs is settled by its usage record");
  }
  GANTRY_RETURN_IF_ERROR(EndHold(db, hold, v1::HOLD_STATE_SETTLED));
  return hold.response;
}

absl::StatusOr<v1::HoldResponse> VoidHold(Database& db, const v1::VoidHoldRequest& request, int64_t now_us) {
  absl::StatusOr<HoldRow> found = FindHold(db, request.hold_id());
  if (absl::IsNotFound(found.status())) {
    db.Execute("INSERT OR IGNORE INTO voided_hold (hold_id, voided_us) VALUES (?, ?)", Blob{request.hold_id()}, now_us);
    v1::HoldResponse response;
    response.set_hold_id(request.hold_id());
    response.set_state(v1::HOLD_STATE_VOID);
    return response;
  }
  GANTRY_ASSIGN_OR_RETURN(HoldRow hold, std::move(found));
  if (hold.response.state() == v1::HOLD_STATE_VOID) return hold.response;
  if (hold.response.state() != v1::HOLD_STATE_PENDING) return absl::FailedPreconditionError("the hold has ended");
  GANTRY_RETURN_IF_ERROR(EndHold(db, hold, v1::HOLD_STATE_VOID));
  return hold.response;
}

// ---- settlement ----

CreditRef FindCredit(Database& db, const Id16& slice_id, const Id16& hold_id) {
  const bool slice = !slice_id.IsZero();
  Rows rows = slice ? db.Query(
                          "SELECT party_no, (granted_micro - spent_micro - returned_micro) * open, granted_us, "
                          "(SELECT budget_no FROM credit_budget WHERE credit_id = slice_id) FROM slice "
                          "WHERE slice_id = ?",
                          slice_id)
                    : db.Query(
                          "SELECT party_no, CASE state WHEN 1 THEN held_micro ELSE 0 END, granted_us, "
                          "(SELECT budget_no FROM credit_budget WHERE credit_id = hold_id) FROM hold "
                          "WHERE hold_id = ?",
                          hold_id);
  if (!rows.Next()) return {};
  return {.kind = slice ? CreditRef::kSlice : CreditRef::kHold,
          .id = slice ? slice_id : hold_id,
          .party_no = rows.Int(0),
          .left_micro = rows.Int(1),
          .granted_us = rows.Int(2),
          .budget_no = rows.Int(3)};
}

int64_t TakeHeld(Journal& journal, const CreditRef& credit, Account& account, int64_t micro) {
  const int64_t taken = std::min(micro, credit.left_micro);
  if (credit.kind == CreditRef::kSlice) {
    if (taken > 0) {
      journal.db().Execute("UPDATE slice SET spent_micro = spent_micro + ? WHERE slice_id = ?", taken, credit.id);
      if (credit.budget_no != 0) UseBudget(journal.db(), credit.id, taken, /*close=*/false);
    }
    return taken;
  }
  if (credit.left_micro == 0) return 0;
  journal.db().Execute(
      "UPDATE hold SET state = ?1, settled_micro = ?2, seal = gantry_row_hash(hold_id, party_no, gateway_no, "
      "gateway_epoch, request_id, first_micro, held_micro, ?2, extensions, last_extension_micro, ?1, granted_us) "
      "WHERE hold_id = ?3",
      static_cast<int64_t>(v1::HOLD_STATE_SETTLED), taken, credit.id);
  journal.ChangeHeld(account, taken - credit.left_micro);
  if (credit.budget_no != 0) UseBudget(journal.db(), credit.id, taken, /*close=*/true);
  return taken;
}

void ReleaseFenced(Database& db, int64_t fenced_before_us) {
  std::vector<std::string> slices, holds;
  {
    Rows rows = db.Query(
        "SELECT s.slice_id FROM slice s JOIN gateway g ON g.gateway_no = s.gateway_no "
        "WHERE s.open = 1 AND s.gateway_epoch < g.epoch AND g.since_us < ? LIMIT 1000",
        fenced_before_us);
    while (rows.Next()) slices.push_back(rows.Text(0));
  }
  {
    Rows rows = db.Query(
        "SELECT h.hold_id FROM hold h JOIN gateway g ON g.gateway_no = h.gateway_no "
        "WHERE h.state = 1 AND h.gateway_epoch < g.epoch AND g.since_us < ? LIMIT 1000",
        fenced_before_us);
    while (rows.Next()) holds.push_back(rows.Text(0));
  }
  for (const std::string& id : slices) {
    v1::ReturnSliceRequest request;
    request.set_slice_id(id);
    request.set_close(true);
    ReturnSlice(db, request, fenced_before_us).IgnoreError();
  }
  for (const std::string& id : holds) {
    absl::StatusOr<HoldRow> hold = FindHold(db, id);
    if (hold.ok()) EndHold(db, *hold, v1::HOLD_STATE_EXPIRED).IgnoreError();
  }
}

int64_t CountFenced(Database& db) {
  int64_t count = 0;
  {
    Rows rows = db.Query(
        "SELECT count(*) FROM slice s JOIN gateway g ON g.gateway_no = s.gateway_no "
        "WHERE s.open = 1 AND s.gateway_epoch < g.epoch");
    if (rows.Next()) count += rows.Int(0);
  }
  Rows rows = db.Query("SELECT count(*) FROM hold WHERE state = 1");
  if (rows.Next()) count += rows.Int(0);
  return count;
}

void FenceGateways(Database& db, int64_t now_us) {
  // Epochs are microseconds since 1970 or more (services/common/instance.h): every start after now is larger.
  db.Execute("UPDATE gateway SET epoch = max(epoch + 1, ?), since_us = ?", now_us, now_us);
}

}  // namespace gantry::billing
