#include "billing/usage/parts.h"

#include "gantry/v1/billing.pb.h"

namespace gantry::billing {
namespace {

struct Counts {
  int64_t prompt = 0, cached = 0, output = 0, requests = 0;
};

UsagePart Part(const Counts& c, int64_t sign) {
  return {{.input = sign * (c.prompt - c.cached),
           .cached_input = sign * c.cached,
           .output = sign * c.output,
           .requests = sign},
          c.prompt};
}

}  // namespace

std::vector<UsagePart> BilledParts(Database& db, const UsageEvent& e) {
  if (e.outcome != v1::USAGE_OUTCOME_CORRECTION) {
    if (e.requests == 0) return {};
    return {Part({e.prompt_tokens, e.cached_tokens, e.output_tokens, e.requests}, 1)};
  }
  // Corrections are rare: the only question asked of an index.
  Counts before;
  {
    Rows rows = db.Query(
        "SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(output_tokens), 0), "
        "coalesce(sum(requests), 0) FROM usage_event WHERE request_id = ? AND revision < ? AND outcome <> 6",
        e.request_id, e.revision);
    if (rows.Next()) before = {rows.Int(0), rows.Int(1), rows.Int(2), rows.Int(3)};
  }
  const Counts right{before.prompt + e.prompt_tokens, before.cached + e.cached_tokens, before.output + e.output_tokens,
                     1};
  if (before.requests == 0) return {Part(right, 1)};
  return {Part(before, -1), Part(right, 1)};
}

}  // namespace gantry::billing
