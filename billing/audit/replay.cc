#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "billing/audit/checks.h"
#include "billing/catalog/plans.h"
#include "billing/rating/rating.h"
#include "billing/usage/event.h"

namespace gantry::billing {
namespace {

struct Counts {
  int64_t prompt = 0, cached = 0, output = 0, requests = 0;
};

// What has been rated so far, as rollups keep it.
class Replay {
 public:
  explicit Replay(Database& db) : db_(db) {}

  // One event with its ratings, in the order in which they were booked. Empty when they are what they must be.
  std::string Event(const UsageEvent& event, const std::vector<RatedHop>& hops) {
    const std::vector<std::pair<Quantities, int64_t>> parts = PartsOf(event);
    for (const RatedHop& hop : hops) {
      std::string failure = Hop(event, hop, parts);
      if (!failure.empty()) return failure;
    }
    return "";
  }

  // That usage_rollup has these sums and no others.
  std::string CompareRollups() {
    Rows rows = db_.Query(
        "SELECT buyer_no, period, version_no, position, model_no, quantity, amount_units, amount_pico "
        "FROM usage_rollup");
    while (rows.Next()) {
      const Key key{rows.Int(0), rows.Int(1), rows.Int(2), rows.Int(3), rows.Int(4)};
      const Sum& sum = sums_[key];
      const __int128 amount = static_cast<__int128>(rows.Int(6)) * 1'000'000'000'000 + rows.Int(7);
      if (sum.quantity != rows.Int(5) || sum.amount != amount) {
        return absl::StrCat("the roll-up of buyer ", rows.Int(0), ", period ", rows.Int(1), ", version ", rows.Int(2),
                            ", line ", rows.Int(3), " is not the sum of its events");
      }
      ++compared_;
    }
    if (compared_ != sums_.size()) return absl::StrCat(sums_.size() - compared_, " roll-ups are missing");
    return "";
  }
  size_t rollups() const { return compared_; }

 private:
  struct Key {
    int64_t buyer, period, version, line, model;
    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& k) {
      return H::combine(std::move(h), k.buyer, k.period, k.version, k.line, k.model);
    }
  };
  struct Sum {
    int64_t quantity = 0;
    __int128 amount = 0;
  };

  std::vector<std::pair<Quantities, int64_t>> PartsOf(const UsageEvent& e) {
    const auto part = [](const Counts& c, int64_t sign) {
      return std::pair(Quantities{sign * (c.prompt - c.cached), sign * c.cached, sign * c.output, sign}, c.prompt);
    };
    if (e.outcome != v1::USAGE_OUTCOME_CORRECTION) {
      const Counts counts{e.prompt_tokens, e.cached_tokens, e.output_tokens, e.requests};
      if (e.requests == 0) return {};
      return {part(counts, 1)};
    }
    // What was billed up to here, then what is right.
    Counts before;
    {
      Rows rows = db_.Query(
          "SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(output_tokens), 0), "
          "coalesce(sum(requests), 0) FROM usage_event WHERE request_id = ? AND revision < ? AND outcome <> 6",
          e.request_id, e.revision);
      if (rows.Next()) before = {rows.Int(0), rows.Int(1), rows.Int(2), rows.Int(3)};
    }
    const Counts right{before.prompt + e.prompt_tokens, before.cached + e.cached_tokens,
                       before.output + e.output_tokens, 1};
    if (before.requests == 0) return {part(right, 1)};
    return {part(before, -1), part(right, 1)};
  }

  std::string Hop(const UsageEvent& event, const RatedHop& hop,
                  const std::vector<std::pair<Quantities, int64_t>>& parts) {
    const PlanTerms* terms = Terms(hop.version_no);
    const std::string* model = Model(event.model_no);
    if (terms == nullptr || model == nullptr) return absl::StrCat("usage ", event.seq, ": no such version or model");
    const std::tuple version_key(hop.buyer_no, hop.period, hop.version_no);
    const __int128 gross_before = gross_[version_key];
    __int128 gross = 0;
    for (const auto& [quantities, context] : parts) {
      const auto before = [&](int line) { return lines_[std::tuple(hop.buyer_no, hop.period, hop.version_no, line)]; };
      absl::StatusOr<std::vector<Charge>> charges = Rate(terms->lines, *model, context, quantities, before);
      if (!charges.ok()) return absl::StrCat("usage ", event.seq, ": ", charges.status().message());
      for (const Charge& charge : *charges) {
        if (terms->lines[static_cast<size_t>(charge.line)].mode != TierMode::kFlat) {
          lines_[std::tuple(hop.buyer_no, hop.period, hop.version_no, charge.line)] += charge.quantity;
        }
        Sum& sum = sums_[Key{hop.buyer_no, hop.period, hop.version_no, charge.line, event.model_no}];
        sum.quantity += charge.quantity;
        sum.amount += charge.amount_pico;
        gross += charge.amount_pico;
      }
    }
    gross_[version_key] += gross;
    const int64_t net = terms->allowance_micro == 0
                            ? static_cast<int64_t>(gross)
                            : BeyondAllowance(gross_before, static_cast<int64_t>(gross), terms->allowance_micro);
    if (net == hop.amount_pico) return "";
    return absl::StrCat("usage ", event.seq, ": booked ", hop.amount_pico, " pico-units, rated again ", net);
  }

  const PlanTerms* Terms(int64_t version_no) {
    auto& known = terms_[version_no];
    if (known == nullptr) {
      Id16 id;
      {
        Rows rows = db_.Query("SELECT plan_version_id FROM plan_version WHERE version_no = ?", version_no);
        if (!rows.Next()) return nullptr;
        id = rows.Id(0);
      }
      absl::StatusOr<PlanTerms> read = ReadTerms(db_, id);
      if (!read.ok()) return nullptr;
      known = std::make_unique<PlanTerms>(*std::move(read));
    }
    return known.get();
  }
  const std::string* Model(int64_t model_no) {
    if (models_.empty()) {
      Rows rows = db_.Query("SELECT model_no, name FROM model");
      while (rows.Next()) models_[rows.Int(0)] = rows.Text(1);
    }
    auto found = models_.find(model_no);
    return found == models_.end() ? nullptr : &found->second;
  }

  Database& db_;
  std::map<int64_t, std::unique_ptr<PlanTerms>> terms_;
  std::map<int64_t, std::string> models_;
  absl::flat_hash_map<Key, Sum> sums_;
  absl::flat_hash_map<std::tuple<int64_t, int64_t, int64_t, int>, int64_t> lines_;
  absl::flat_hash_map<std::tuple<int64_t, int64_t, int64_t>, __int128> gross_;
  size_t compared_ = 0;
};

}  // namespace

void CheckRating(Database& db, v1::AuditReport* report) {
  Replay replay(db);
  std::string failure;
  int64_t events = 0, ratings = 0;
  {
    Rows rows = db.Query("SELECT " GANTRY_USAGE_COLUMNS
                         ", r.buyer_no, r.seller_no, r.version_no, r.period, r.amount_pico FROM usage_event u "
                         "LEFT JOIN rating r ON r.event_seq = u.seq ORDER BY u.seq, r.level");
    UsageEvent event;
    std::vector<RatedHop> hops;
    const auto finish = [&] {
      if (event.seq == 0 || !failure.empty()) return;
      ++events;
      failure = replay.Event(event, hops);
    };
    while (rows.Next()) {
      if (rows.Int(0) != event.seq) {
        finish();
        event = ReadEvent(rows);
        hops.clear();
      }
      if (rows.IsNull(kUsageColumns)) continue;
      ++ratings;
      hops.push_back(ReadRatedHop(rows, kUsageColumns));
    }
    finish();
  }
  Report(report, "usage x price = amount", failure, absl::StrCat(events, " records rated again at ", ratings, " hops"));
  if (!failure.empty()) return;  // the sums of what is wrong say nothing
  failure = replay.CompareRollups();
  Report(report, "roll-ups = events", failure, absl::StrCat(replay.rollups(), " roll-ups"));
}

}  // namespace gantry::billing
