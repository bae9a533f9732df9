// The single checks of an audit; each adds what it found to the findings.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "billing/audit/audit.h"
#include "billing/store/database.h"

namespace gantry::billing {

// Names of checks as reports have them; figures and findings go by these.
namespace check {
inline constexpr char kFile[] = "database file";
inline constexpr char kAccounts[] = "accounts = transfers";
inline constexpr char kBalanced[] = "debits = credits";
inline constexpr char kHeld[] = "held = open slices + pending holds";
inline constexpr char kSpent[] = "slices + holds spent = usage";
inline constexpr char kBudgetsHeld[] = "budgets held = open slices + pending holds";
inline constexpr char kBudgetsUsed[] = "budgets used = usage of their keys";
inline constexpr char kOverdraft[] = "no overdraft";
inline constexpr char kLots[] = "lots = balances";
inline constexpr char kBooked[] = "ledger + residue = usage";
inline constexpr char kRated[] = "usage x price = amount";
inline constexpr char kRollups[] = "roll-ups = events";
inline constexpr char kPlans[] = "plan versions unchanged";
inline constexpr char kTransferChain[] = "transfer chain";
inline constexpr char kUsageChain[] = "usage chain";
inline constexpr char kLogChain[] = "audit log chain";
inline constexpr char kSeals[] = "ended rows unchanged";
inline constexpr char kInvoices[] = "invoices = usage, numbers without gaps";
inline constexpr char kInvoiceBooks[] = "invoices = lines = postings";
inline constexpr char kCreditNotes[] = "credit notes <= invoices";
inline constexpr char kAllocations[] = "allocations <= payments and invoices";
inline constexpr char kWitnesses[] = "witnesses agree";
}  // namespace check

// What the checks have found, by check, in the order in which they were begun.
class Findings {
 public:
  // A check that holds unless something is added to it; what it counted goes into the report when it holds.
  void Begin(const char* check);
  void Figures(const char* check, std::string figures);
  // Beyond a thousand in all they are counted, not kept.
  void Add(const char* check, std::string row, std::string detail, int64_t party_no = 0);
  bool any(const char* check) const;
  AuditResult Take();

 private:
  struct Check {
    std::string name, figures;
    int64_t failures = 0;
    std::vector<size_t> findings;
  };
  Check* Of(const char* check);
  std::vector<Check> checks_;
  std::vector<Finding> findings_;
};

// An account as its row says it is.
struct AuditedAccount {
  int64_t party_no = 0;
  std::string type, currency;
  int64_t debit_micro = 0, credit_micro = 0, residue_pico = 0;
};
using AuditedAccounts = std::map<int64_t, AuditedAccount>;
AuditedAccounts ReadAccounts(Database& db);

// "3 micro-units more than". Findings give differences, not the sums themselves: those grow, and what was accepted when
// a party was released is to stay accepted.
std::string Beyond(__int128 amount, absl::string_view unit = "micro-units");
// Of an account whose transfers come to other sums: the same words whether all are added up or those since a
// checkpoint.
std::string BeyondTransfers(const AuditedAccount& account, __int128 debit_micro, __int128 credit_micro);

// What usage took of slices and holds, and gave back, as the postings of its events have it.
struct CreditTaken {
  struct Return {
    int64_t key_no = 0, ended_us = 0;
    __int128 micro = 0;
  };
  absl::flat_hash_map<int64_t, __int128> by_party;  // whose slices and holds: tenants
  absl::flat_hash_map<int64_t, __int128> by_key;
  absl::flat_hash_map<int64_t, Return> returned;  // to tenants, by the seq of the correction
};

// money.cc: the file, what is held, lots, seals.
void CheckFile(Database& db, Findings* findings);
void CheckHeld(Database& db, Findings* findings);
void CheckLots(Database& db, Findings* findings);
void CheckSeals(Database& db, Findings* findings);

// books_pass.cc: all usage is hashed, rated and booked again in its order, beside the transfers that it led to.
CreditTaken CheckUsageAndTransfers(Database& db, Findings* findings);

// budgets.cc: what slices and holds have spent, and what budgets of keys hold and have used.
void CheckSpent(Database& db, const CreditTaken& taken, Findings* findings);
void CheckBudgets(Database& db, const CreditTaken& taken, Findings* findings);

// records.cc: what must never change, and invoices.
void CheckPlans(Database& db, Findings* findings);
void CheckLogChain(Database& db, Findings* findings);
void CheckInvoices(Database& db, Findings* findings);

// witnesses.cc: both counts of every request.
void CheckWitnesses(Database& db, Findings* findings);

// invoices.cc: what invoices say of themselves, of the ledger and of what was paid.
void CheckInvoiceBooks(Database& db, Findings* findings);

}  // namespace gantry::billing
