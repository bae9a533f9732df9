// Sums of rated usage by buyer, period, plan line and model: what invoices are written from and tiers are counted by.
// Kept with every event and rebuildable from them.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "billing/rating/rating.h"
#include "billing/store/database.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct RollupKey {
  int64_t buyer_no = 0;
  int64_t period = 0;
  int64_t version_no = 0;
  bool operator==(const RollupKey&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const RollupKey& k) {
    return H::combine(std::move(h), k.buyer_no, k.period, k.version_no);
  }
};

// The roll-ups of one command: what it adds is summed in memory and written when it ends.
class Rollups {
 public:
  explicit Rollups(Database& db) : db_(db) {}
  ~Rollups() { Flush(); }
  Rollups(const Rollups&) = delete;
  Rollups& operator=(const Rollups&) = delete;

  void Add(const RollupKey& key, int64_t model_no, const std::vector<Charge>& charges);
  // Units of all models that a line has been charged for in the period.
  int64_t UnitsOfLine(const RollupKey& key, int line);
  // What all lines of a version came to in the period, before any allowance.
  __int128 GrossOfVersion(const RollupKey& key);
  void Flush();

 private:
  struct Sum {
    int64_t quantity = 0;
    __int128 amount = 0;
  };
  Database& db_;
  absl::flat_hash_map<std::tuple<RollupKey, int, int64_t>, Sum> pending_;  // by line and model
};

struct RollupRow {
  Id16 plan_version_id;
  int line = 0;  // index in the version's lines
  std::string model;
  int64_t quantity = 0;
  __int128 amount_pico = 0;  // before any allowance
};
// A buyer's period, by version, line and model, whose quantities are not 0.
std::vector<RollupRow> RollupOf(Database& db, int64_t buyer_no, int64_t period);

}  // namespace gantry::billing
