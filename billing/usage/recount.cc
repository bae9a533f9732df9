#include "billing/usage/recount.h"

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "billing/catalog/plans.h"
#include "billing/rating/rating.h"
#include "billing/usage/event.h"
#include "billing/usage/parts.h"
#include "engine/base/status_macros.h"

namespace gantry::billing {
namespace {

struct Version {
  int64_t version_no = 0;
  std::shared_ptr<const PlanTerms> terms;
};
struct Sum {
  int64_t quantity = 0;
  __int128 amount = 0;
};

}  // namespace

absl::StatusOr<std::vector<RollupRow>> RecountPeriod(Database& db, int64_t buyer_no, int64_t period) {
  absl::flat_hash_map<int64_t, Version> versions;
  absl::flat_hash_map<int64_t, std::string> models;
  {
    Rows rows = db.Query("SELECT version_no, plan_version_id FROM plan_version");
    while (rows.Next()) {
      GANTRY_ASSIGN_OR_RETURN(std::shared_ptr<const PlanTerms> terms, TermsOf(db, rows.Id(1)));
      versions[rows.Int(0)] = {rows.Int(0), std::move(terms)};
    }
  }
  {
    Rows rows = db.Query("SELECT model_no, name FROM model");
    while (rows.Next()) models[rows.Int(0)] = rows.Text(1);
  }
  absl::flat_hash_map<std::pair<int64_t, int>, int64_t> units;  // of lines with tiers, by version
  std::map<std::tuple<int64_t, int, std::string>, Sum> sums;    // by version, line and model: the order of RollupOf
  Rows rows = db.Query("SELECT " GANTRY_USAGE_COLUMNS
                       ", r.version_no FROM rating r JOIN usage_event u ON u.seq = r.event_seq "
                       "WHERE r.buyer_no = ? AND r.period = ? ORDER BY r.event_seq",
                       buyer_no, period);
  while (rows.Next()) {
    const UsageEvent event = ReadEvent(rows);
    const int64_t version_no = rows.Int(kUsageColumns);
    const std::shared_ptr<const PlanTerms>& terms = versions[version_no].terms;
    const std::string& model = models[event.model_no];
    if (terms == nullptr || model.empty()) return absl::DataLossError("a rating names no version or model");
    for (const UsagePart& part : BilledParts(db, event)) {
      const auto before = [&](int line) { return units[{version_no, line}]; };
      GANTRY_ASSIGN_OR_RETURN(const std::vector<Charge> charges,
                              Rate(terms->lines, model, part.context, part.quantities, before));
      for (const Charge& charge : charges) {
        if (terms->lines[static_cast<size_t>(charge.line)].mode != TierMode::kFlat) {
          units[{version_no, charge.line}] += charge.quantity;
        }
        Sum& sum = sums[{version_no, charge.line, model}];
        sum.quantity += charge.quantity;
        sum.amount += charge.amount_pico;
      }
    }
  }
  std::vector<RollupRow> result;
  for (const auto& [key, sum] : sums) {
    const auto& [version_no, line, model] = key;
    if (sum.quantity == 0 && sum.amount == 0) continue;
    result.push_back({versions[version_no].terms->version_id, line, model, sum.quantity, sum.amount});
  }
  return result;
}

}  // namespace gantry::billing
