#include "billing/alerts/alerts.h"

#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "billing/invoice/currency.h"
#include "billing/invoice/dates.h"
#include "billing/invoice/receivables.h"
#include "billing/ledger/key_budget.h"
#include "billing/parties/parking.h"
#include "billing/parties/party_tree.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

constexpr int64_t kAheadUs = 7 * 86'400'000'000;  // the first level of what expires

constexpr AlertRule kAllRules[] = {AlertRule::kBudget,          AlertRule::kBalance,        AlertRule::kKeyExpiry,
                                   AlertRule::kCreditExpiry,    AlertRule::kInvoiceOverdue, AlertRule::kPartyParked,
                                   AlertRule::kUsageQuarantined};

struct Whose {
  Id16 party;
  std::string name;
  std::string currency;
  Id16 seller;
};

// Everybody but the house, by number; and the house.
struct Everybody {
  std::map<int64_t, Whose> parties;
  Id16 house;
  // Null: the house's own, of which nobody is told.
  const Whose* Of(int64_t party_no) const {
    const auto found = parties.find(party_no);
    return found == parties.end() ? nullptr : &found->second;
  }
};

Everybody ReadParties(Database& db) {
  Everybody all;
  Rows rows = db.Query(
      "SELECT p.party_no, p.party_id, p.name, p.currency, q.party_id FROM party p "
      "LEFT JOIN party q ON q.party_no = p.parent_no");
  while (rows.Next()) {
    if (rows.IsNull(4)) {
      all.house = rows.Id(1);
    } else {
      all.parties[rows.Int(0)] = {rows.Id(1), rows.Text(2), rows.Text(3), rows.Id(4)};
    }
  }
  return all;
}

AlertFact FactOf(AlertRule rule, const Whose& whose, std::string subject, std::vector<Id16> audience) {
  return {.rule = rule,
          .subject = std::move(subject),
          .party = whose.party,
          .party_name = whose.name,
          .audience = std::move(audience),
          .currency = whose.currency};
}

std::string LabelOfKey(const std::string& public_id, const std::string& label) {
  return absl::StrCat("key ", public_id, label.empty() ? "" : absl::StrCat(" (", label, ")"));
}

void AddBalances(Database& db, const Everybody& all, std::vector<AlertFact>* facts) {
  // A window begins with each credit that comes in.
  Rows rows = db.Query(
      "SELECT a.party_no, a.credit_micro - a.debit_micro + p.credit_limit_micro, "
      "(SELECT max(l.lot_no) FROM credit_lot l WHERE l.account_no = a.account_no) "
      "FROM account a JOIN party p USING (party_no) WHERE a.type = 'customer' AND p.status = 1");
  while (rows.Next()) {
    const Whose* whose = all.Of(rows.Int(0));
    if (whose == nullptr) continue;
    AlertFact fact = FactOf(AlertRule::kBalance, *whose, whose->party.ToHex(), {whose->party, whose->seller});
    fact.window = absl::StrCat(rows.Int(2));
    fact.balance_micro = rows.Int(1);
    facts->push_back(std::move(fact));
  }
}

void AddKeys(Database& db, const Everybody& all, int64_t now_us, std::vector<AlertFact>* facts) {
  Rows rows = db.Query(
      "SELECT party_no, public_id, label, expires_us FROM api_key "
      "WHERE expires_us > ? AND expires_us <= ? AND revoked_us = 0",
      now_us, now_us + kAheadUs);
  while (rows.Next()) {
    const Whose* whose = all.Of(rows.Int(0));
    if (whose == nullptr) continue;
    AlertFact fact = FactOf(AlertRule::kKeyExpiry, *whose, rows.Text(1), {whose->party});
    fact.window = absl::StrCat(rows.Int(3));
    fact.label = LabelOfKey(rows.Text(1), rows.Text(2));
    fact.expires_us = rows.Int(3);
    facts->push_back(std::move(fact));
  }
}

void AddCredit(Database& db, const Everybody& all, int64_t now_us, std::vector<AlertFact>* facts) {
  Rows rows = db.Query(
      "SELECT a.party_no, l.lot_no, l.left_micro, l.expires_us FROM credit_lot l JOIN account a USING (account_no) "
      "WHERE l.left_micro > 0 AND l.expires_us > ? AND l.expires_us <= ?",
      now_us, now_us + kAheadUs);
  while (rows.Next()) {
    const Whose* whose = all.Of(rows.Int(0));
    if (whose == nullptr) continue;
    AlertFact fact = FactOf(AlertRule::kCreditExpiry, *whose, absl::StrCat("lot ", rows.Int(1)), {whose->party});
    fact.window = absl::StrCat(rows.Int(3));
    fact.amount_micro = rows.Int(2);
    fact.expires_us = rows.Int(3);
    facts->push_back(std::move(fact));
  }
}

void AddQuarantine(Database& db, const Everybody& all, std::vector<AlertFact>* facts) {
  // Each new one begins a window, so that it is told although earlier ones still stand.
  Rows rows = db.Query(
      "SELECT e.party_no, count(*), max(u.since_us) FROM unmatched u JOIN usage_event e USING (request_id) "
      "WHERE u.state = 'quarantined' AND e.revision = 0 GROUP BY e.party_no");
  while (rows.Next()) {
    const Whose* whose = all.Of(rows.Int(0));
    if (whose == nullptr) continue;
    AlertFact fact = FactOf(AlertRule::kUsageQuarantined, *whose, whose->party.ToHex(), {all.house});
    fact.window = absl::StrCat(rows.Int(2));
    fact.count = rows.Int(1);
    fact.holds = true;
    facts->push_back(std::move(fact));
  }
}

void AddBudgets(Database& db, const Everybody& all, int64_t now_us, std::vector<AlertFact>* facts) {
  struct Key {
    int64_t party_no;
    Id16 key_id;
    std::string public_id, label;
  };
  std::vector<Key> keys;  // one of each budget: the newest
  {
    Rows rows = db.Query(
        "SELECT k.party_no, k.key_id, k.public_id, k.label FROM api_key k WHERE k.revoked_us = 0 AND k.key_no IN "
        "(SELECT max(b.key_no) FROM key_budget b GROUP BY b.budget_no)");
    while (rows.Next()) keys.push_back({rows.Int(0), rows.Id(1), rows.Text(2), rows.Text(3)});
  }
  for (const Key& key : keys) {
    const Whose* whose = all.Of(key.party_no);
    const absl::StatusOr<PartyRow> party = PartyByNo(db, key.party_no);
    if (whose == nullptr || !party.ok()) continue;
    const absl::StatusOr<Budget> budget = BudgetOf(db, *party, key.key_id, now_us);
    if (!budget.ok() || budget->budget_no == 0) continue;
    AlertFact fact = FactOf(AlertRule::kBudget, *whose, absl::StrCat("budget ", budget->budget_no), {whose->party});
    fact.window = absl::StrCat(budget->from_us);
    fact.label = LabelOfKey(key.public_id, key.label);
    fact.used_micro = budget->used_micro;
    fact.limit_micro = budget->amount_micro;
    facts->push_back(std::move(fact));
  }
}

void AddOverdue(Database& db, int64_t now_us, std::vector<AlertFact>* facts) {
  for (const InvoiceFact& invoice : InvoiceFacts(db, now_us)) {
    if (invoice.days_overdue == 0) continue;
    facts->push_back({.rule = AlertRule::kInvoiceOverdue,
                      .subject = invoice.number,
                      .window = invoice.number,
                      .label = absl::StrCat("invoice ", invoice.number),
                      .party = invoice.buyer_id,
                      .party_name = invoice.buyer_name,
                      .audience = {invoice.buyer_id, invoice.seller_id},
                      .currency = invoice.currency,
                      .expires_us = StartOfDay(invoice.due_day, "UTC"),
                      .amount_micro = invoice.open_minor * MicroPerMinor(invoice.minor_digits),
                      .holds = true});
  }
}

void AddParked(Database& db, const Everybody& all, std::vector<AlertFact>* facts) {
  for (const ParkedParty& parked : ParkedParties(db)) {
    facts->push_back({.rule = AlertRule::kPartyParked,
                      .subject = parked.party_id.ToHex(),
                      .window = absl::StrCat(parked.since_us),
                      .party = parked.party_id,
                      .party_name = parked.name,
                      .audience = {all.house},
                      .holds = true,
                      .detail = parked.reason});
  }
}

AlertStates ReadStates(Database& db) {
  AlertStates states;
  Rows rows = db.Query("SELECT rule, subject, window, level, reference_micro FROM alert_state");
  while (rows.Next()) {
    for (const AlertRule rule : kAllRules) {
      if (rows.Text(0) != AlertTopic(rule)) continue;
      states[{rule, rows.Text(1)}] = {
          .window = rows.Text(2), .level = static_cast<int>(rows.Int(3)), .reference_micro = rows.Int(4)};
    }
  }
  return states;
}

std::vector<AlertDecision> Decide(Database& db, int64_t now_us) {
  return EvaluateAlerts(CollectAlertFacts(db, now_us), ReadStates(db), now_us);
}

}  // namespace

std::vector<AlertFact> CollectAlertFacts(Database& db, int64_t now_us) {
  const Everybody all = ReadParties(db);
  std::vector<AlertFact> facts;
  AddBalances(db, all, &facts);
  AddKeys(db, all, now_us, &facts);
  AddCredit(db, all, now_us, &facts);
  AddQuarantine(db, all, &facts);
  AddBudgets(db, all, now_us, &facts);
  AddOverdue(db, now_us, &facts);
  AddParked(db, all, &facts);
  return facts;
}

bool AlertsChanged(Database& db, int64_t now_us) {
  return !Decide(db, now_us).empty();
}

absl::StatusOr<int> TellAlerts(Database& db, int64_t now_us) {
  int told = 0;
  for (const AlertDecision& decision : Decide(db, now_us)) {
    const char* rule = AlertTopic(decision.key.first);
    if (decision.after.has_value()) {
      db.Execute(
          "INSERT INTO alert_state (rule, subject, window, level, reference_micro, changed_us) VALUES (?, ?, ?, ?, ?, "
          "?) "
          "ON CONFLICT (rule, subject) DO UPDATE SET window = excluded.window, level = excluded.level, "
          "reference_micro = excluded.reference_micro, changed_us = excluded.changed_us",
          rule, decision.key.second, decision.after->window, decision.after->level, decision.after->reference_micro,
          now_us);
    } else {
      db.Execute("DELETE FROM alert_state WHERE rule = ? AND subject = ?", rule, decision.key.second);
    }
    for (const OutboxMessage& message : decision.messages) {
      GANTRY_RETURN_IF_ERROR(Enqueue(db, message, now_us).status());
      ++told;
    }
  }
  return told;
}

}  // namespace gantry::billing
