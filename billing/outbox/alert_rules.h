// When a party is told something by itself: pure rules over facts that billing/alerts reads from the books.
//
// A fact is about one subject (a key, a balance, a lot of credit, an invoice, a party) and stands on a level that
// rises: 0 says nothing, each level above says more. A rise is told once. Within one window (a budget's day, the time
// since the last top-up, an expiry date) a level must first fall before it can be told again; a new window begins at 0.
// Jumping over levels tells the highest alone.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "billing/outbox/outbox.h"
#include "services/common/ids.h"

namespace gantry::billing {

enum class AlertRule {
  kBudget,            // 50, 80, 100 % of a key's budget
  kBalance,           // 50, 80, 100 % of what there was after the last top-up
  kKeyExpiry,         // 7 days, 1 day before
  kCreditExpiry,      // likewise, of credit that is not used
  kInvoiceOverdue,    // past its due date and not paid
  kPartyParked,       // an audit found its books wrong; nothing is booked for it
  kUsageQuarantined,  // gateway and worker contradict each other
};
const char* AlertTopic(AlertRule rule);  // "budget.threshold", …

struct AlertFact {
  AlertRule rule = AlertRule::kBudget;
  std::string subject;  // unique within the rule
  std::string window;   // in which a rise is told once
  std::string label;    // for people: "key laptop (ABCD…)", "invoice R-2026-000012"
  Id16 party;           // whose it is
  std::string party_name;
  std::vector<Id16> audience;  // who is told
  std::string currency;
  int64_t used_micro = 0;     // kBudget
  int64_t limit_micro = 0;    // kBudget; 0: none
  int64_t balance_micro = 0;  // kBalance: with the credit limit; what is left of it
  int64_t expires_us = 0;     // kKeyExpiry, kCreditExpiry
  int64_t amount_micro = 0;   // kCreditExpiry, kInvoiceOverdue
  int64_t count = 0;          // kUsageQuarantined
  bool holds = false;         // kInvoiceOverdue, kPartyParked, kUsageQuarantined
  std::string detail;         // kPartyParked
};

struct AlertState {
  std::string window;
  int level = 0;
  int64_t reference_micro = 0;  // kBalance: the most that was there in the window
  friend bool operator==(const AlertState&, const AlertState&) = default;
};
using AlertKey = std::pair<AlertRule, std::string>;  // rule, subject
using AlertStates = std::map<AlertKey, AlertState>;

struct AlertDecision {
  AlertKey key;
  std::optional<AlertState> after;      // nullopt: its subject is gone
  std::vector<OutboxMessage> messages;  // one per party of the audience
};
// What changes; nothing for facts that stand where they stood. States without a fact are forgotten.
std::vector<AlertDecision> EvaluateAlerts(const std::vector<AlertFact>& facts, const AlertStates& before,
                                          int64_t now_us);

}  // namespace gantry::billing
