// What a command that books usage works with: the journal of its money, its roll-ups, and what it has looked up
// already. A batch of requests meets the same sellers, months and models again and again; it asks for each once. Lives
// for one command, in which none of these can change.
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

namespace gantry::billing {

class UsageBook {
 public:
  explicit UsageBook(Database& db) : db_(db), journal_(db), rollups_(db) {}

  Database& db() { return db_; }
  Journal& journal() { return journal_; }
  Rollups& rollups() { return rollups_; }

  absl::StatusOr<PartyRow> Party(int64_t party_no);
  absl::StatusOr<PartyRow> House();
  // The number of a model; a new one when its name is new.
  int64_t ModelNo(const std::string& name);
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
  absl::flat_hash_map<int64_t, PartyRow> parties_;
  absl::flat_hash_map<std::string, int64_t> models_;
  absl::flat_hash_map<int64_t, TermsSpan> terms_;
  absl::flat_hash_map<int64_t, Period> periods_;
  Tail usage_tail_;
};

}  // namespace gantry::billing
