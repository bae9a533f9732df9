// Sums of rated usage by buyer, period, plan line and model: what invoices are written from and tiers are counted by.
// Kept with every event and rebuildable from them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "billing/rating/rating.h"
#include "billing/store/database.h"
#include "services/common/ids.h"

namespace gantry::billing {

struct RollupKey {
  int64_t buyer_no = 0;
  int64_t period = 0;
  int64_t version_no = 0;
};

void AddToRollup(Database& db, const RollupKey& key, int64_t model_no, const std::vector<Charge>& charges);

// Units of all models that a line has been charged for in the period.
int64_t UnitsOfLine(Database& db, const RollupKey& key, int line);
// What all lines of a version came to in the period, before any allowance.
__int128 GrossOfVersion(Database& db, const RollupKey& key);

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
