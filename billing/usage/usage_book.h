// What a command that books usage works with: the journal of its money, its roll-ups, and what has been looked up
// already. Requests meet the same tenants, keys, sellers, months and models again and again; each is asked for once, by
// a command or, where commands keep things (Store::WriteKeeping), until something else is written. A book lives for one
// command, in which none of these can change.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "billing/catalog/periods.h"
#include "billing/catalog/plans.h"
#include "billing/ledger/ledger.h"
#include "billing/parties/party_tree.h"
#include "billing/store/database.h"
#include "billing/usage/rollup.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct UsageMemory {
  absl::flat_hash_map<Id16, int64_t> party_numbers;
  absl::flat_hash_map<int64_t, PartyRow> parties;
  absl::flat_hash_map<Id16, int64_t> keys;
  absl::flat_hash_map<std::string, int64_t> models;
  absl::flat_hash_map<std::string, int64_t> workers;
  absl::flat_hash_map<int64_t, TermsSpan> terms;
  absl::flat_hash_map<int64_t, Period> periods;
};

class UsageBook {
 public:
  explicit UsageBook(Database& db);

  Database& db() { return db_; }
  Journal& journal() { return journal_; }
  Rollups& rollups() { return rollups_; }

  absl::StatusOr<PartyRow> Party(int64_t party_no);
  absl::StatusOr<PartyRow> Party(const Id16& party_id);
  // Whether it or somebody above it is parked.
  absl::StatusOr<bool> IsParked(const PartyRow& party);
  // 0: no key of ours.
  int64_t KeyNo(const Id16& key_id);
  absl::StatusOr<PartyRow> House();
  // The number of a model; a new one when its name is new.
  int64_t ModelNo(const std::string& name);
  int64_t WorkerNo(const std::string& worker_id);
  // What prices a party at a time, and the month that usage ended then stands in.
  absl::StatusOr<std::shared_ptr<const PlanTerms>> TermsAt(int64_t party_no, int64_t time_us);
  absl::StatusOr<Period> OpenPeriodAt(const PartyRow& party, int64_t time_us);

  // The ends of the chains, once read.
  struct Tail {
    int64_t next_seq = 0;
    std::string hash;
  };
  Tail& UsageTail();

 private:
  Database& db_;
  Journal journal_;
  Rollups rollups_;
  UsageMemory own_;
  UsageMemory* memory_;  // kept, or our own
  Tail usage_tail_;
};

}  // namespace gantry::billing
