#include "billing/outbox/alert_rules.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "engine/base/check.h"

namespace gantry::billing {
namespace {

constexpr int64_t kDayUs = 86'400'000'000;
// How far below its threshold a meter must fall before that can be told again: one that swings around it says nothing.
constexpr int kRearmPercent = 5;
constexpr int kThresholds[] = {100, 80, 50};  // percent; a meter's levels

// 12'500'000 -> "12.50 EUR"; as many decimals as there are, at least two.
std::string Money(int64_t micro, const std::string& currency) {
  const uint64_t magnitude = micro < 0 ? 0 - static_cast<uint64_t>(micro) : static_cast<uint64_t>(micro);
  std::string decimals = absl::StrFormat("%06d", magnitude % 1'000'000);
  while (decimals.size() > 2 && decimals.back() == '0') decimals.pop_back();
  return absl::StrCat(micro < 0 ? "-" : "", magnitude / 1'000'000, ".", decimals, " ", currency);
}

std::string Minute(int64_t time_us) {
  return absl::FormatTime("%Y-%m-%d %H:%M UTC", absl::FromUnixMicros(time_us), absl::UTCTimeZone());
}

// The highest threshold that `used` of `limit` reaches when `margin` percent of the limit are added to it.
int MeterLevel(int64_t used, int64_t limit, int margin) {
  if (limit <= 0) return 0;
  const __int128 percent = static_cast<__int128>(used) * 100 + static_cast<__int128>(limit) * margin;
  for (const int threshold : kThresholds) {
    if (percent >= static_cast<__int128>(limit) * threshold) return threshold;
  }
  return 0;
}

int ExpiryLevel(int64_t expires_us, int64_t now_us) {
  if (expires_us <= now_us) return 0;  // over; nothing is left to be done
  if (expires_us - now_us <= kDayUs) return 2;
  return expires_us - now_us <= 7 * kDayUs ? 1 : 0;
}

bool IsMeter(AlertRule rule) {
  return rule == AlertRule::kBudget || rule == AlertRule::kBalance;
}

// Used and whole of a meter.
std::pair<int64_t, int64_t> Meter(const AlertFact& fact, const AlertState& state) {
  if (fact.rule == AlertRule::kBudget) return {fact.used_micro, fact.limit_micro};
  return {state.reference_micro - fact.balance_micro, state.reference_micro};
}

int LevelOf(const AlertFact& fact, const AlertState& state, int64_t now_us, int margin) {
  switch (fact.rule) {
    case AlertRule::kBudget:
    case AlertRule::kBalance: {
      const auto [used, whole] = Meter(fact, state);
      return MeterLevel(used, whole, margin);
    }
    case AlertRule::kKeyExpiry:
    case AlertRule::kCreditExpiry:
      return ExpiryLevel(fact.expires_us, now_us);
    case AlertRule::kInvoiceOverdue:
    case AlertRule::kPartyParked:
    case AlertRule::kUsageQuarantined:
      return fact.holds ? 1 : 0;
  }
  return 0;
}

// What people and programs are told of a fact that stands on `level`.
OutboxMessage Message(const AlertFact& fact, const AlertState& state, int level) {
  OutboxMessage message{.topic = AlertTopic(fact.rule)};
  auto& data = message.data;
  data["party_name"] = fact.party_name;
  data["subject"] = fact.subject;
  data["label"] = fact.label;
  switch (fact.rule) {
    case AlertRule::kBudget:
      message.title = level == 100 ? absl::StrCat("The budget of ", fact.label, " is used up")
                                   : absl::StrCat(level, " % of the budget of ", fact.label, " is used");
      message.text = absl::StrCat(Money(fact.used_micro, fact.currency), " of ", Money(fact.limit_micro, fact.currency),
                                  " are used.", level == 100 ? " Its requests are refused until there is more." : "");
      data["percent"] = level;
      data["used_micro"] = fact.used_micro;
      data["limit_micro"] = fact.limit_micro;
      data["currency"] = fact.currency;
      break;
    case AlertRule::kBalance:
      message.title = level == 100 ? absl::StrCat("The balance of ", fact.party_name, " is used up")
                                   : absl::StrCat(level, " % of the balance of ", fact.party_name, " is used");
      message.text = absl::StrCat(Money(fact.balance_micro, fact.currency), " are left of ",
                                  Money(state.reference_micro, fact.currency), " after the last top-up.",
                                  level == 100 ? " Requests are refused until there is more." : "");
      data["percent"] = level;
      data["left_micro"] = fact.balance_micro;
      data["reference_micro"] = state.reference_micro;
      data["currency"] = fact.currency;
      break;
    case AlertRule::kKeyExpiry:
      message.title = absl::StrCat("The ", fact.label, " expires within ", level == 2 ? "a day" : "a week");
      message.text =
          absl::StrCat("It expires at ", Minute(fact.expires_us), "; requests with it are refused from then on.");
      data["expires_us"] = fact.expires_us;
      break;
    case AlertRule::kCreditExpiry:
      message.title = absl::StrCat(Money(fact.amount_micro, fact.currency), " of credit of ", fact.party_name,
                                   " expire within ", level == 2 ? "a day" : "a week");
      message.text = absl::StrCat("What is not used by ", Minute(fact.expires_us), " is lost.");
      data["amount_micro"] = fact.amount_micro;
      data["currency"] = fact.currency;
      data["expires_us"] = fact.expires_us;
      break;
    case AlertRule::kInvoiceOverdue:
      message.title = absl::StrCat("The ", fact.label, " of ", fact.party_name, " is overdue");
      message.text = absl::StrCat(Money(fact.amount_micro, fact.currency), " were due on ",
                                  Minute(fact.expires_us).substr(0, 10), ".");
      data["amount_micro"] = fact.amount_micro;
      data["currency"] = fact.currency;
      data["due_us"] = fact.expires_us;
      break;
    case AlertRule::kPartyParked:
      message.title = absl::StrCat(fact.party_name, " is parked");
      message.text = absl::StrCat("A check of its books failed: ", fact.detail,
                                  ". Nothing is booked for it until somebody has looked.");
      data["detail"] = fact.detail;
      break;
    case AlertRule::kUsageQuarantined:
      message.title = absl::StrCat("Usage of ", fact.party_name, " is in quarantine");
      message.text = absl::StrCat("Gateway and worker contradict each other about ", fact.count,
                                  fact.count == 1 ? " request" : " requests", "; `gantry usage --tenant ",
                                  fact.party_name, "` shows them.");
      data["requests"] = fact.count;
      break;
  }
  return message;
}

}  // namespace

const char* AlertTopic(AlertRule rule) {
  switch (rule) {
    case AlertRule::kBudget:
      return "budget.threshold";
    case AlertRule::kBalance:
      return "balance.threshold";
    case AlertRule::kKeyExpiry:
      return "key.expiring";
    case AlertRule::kCreditExpiry:
      return "credit.expiring";
    case AlertRule::kInvoiceOverdue:
      return "invoice.overdue";
    case AlertRule::kPartyParked:
      return "party.parked";
    case AlertRule::kUsageQuarantined:
      return "usage.quarantined";
  }
  return "";
}

std::vector<AlertDecision> EvaluateAlerts(const std::vector<AlertFact>& facts, const AlertStates& before,
                                          int64_t now_us) {
  std::vector<AlertDecision> decisions;
  std::set<AlertKey> seen;
  for (const AlertFact& fact : facts) {
    const AlertKey key{fact.rule, fact.subject};
    const bool is_new = seen.insert(key).second;
    GANTRY_CHECK(is_new, "one fact per rule and subject");
    AlertState state;
    if (const auto known = before.find(key); known != before.end()) state = known->second;
    const AlertState had = state;
    if (state.window != fact.window) state = {.window = fact.window};
    if (fact.rule == AlertRule::kBalance) state.reference_micro = std::max(state.reference_micro, fact.balance_micro);
    AlertDecision decision{.key = key};
    const int level = LevelOf(fact, state, now_us, 0);
    if (level > state.level) {
      state.level = level;
      for (const Id16& party : fact.audience) {
        decision.messages.push_back(Message(fact, state, level));
        decision.messages.back().party_id = party;
      }
    } else if (level < state.level) {
      state.level = IsMeter(fact.rule) ? std::min(state.level, LevelOf(fact, state, now_us, kRearmPercent)) : level;
    }
    // What says nothing and never said anything needs no row.
    const bool silent = state.level == 0 && state.reference_micro == 0;
    if (silent ? had == AlertState() : had == state) continue;
    if (!silent) decision.after = state;
    decisions.push_back(std::move(decision));
  }
  for (const auto& [key, state] : before) {
    if (!seen.contains(key)) decisions.push_back({.key = key});
  }
  return decisions;
}

}  // namespace gantry::billing
