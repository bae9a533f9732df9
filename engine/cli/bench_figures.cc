#include "engine/cli/bench_figures.h"

#include <algorithm>

namespace gantry::engine::cli {
namespace {

// Over all runs of a row.
struct Sums {
  int64_t rounds = 0, sequence_rounds = 0, draft_passes = 0, draft_steps = 0;
  double draft_steps_ms = 0;
  CountsByDepth drafted_at = {}, accepted_at = {};

  explicit Sums(const BenchRow& row) {
    for (const Measurement& run : row.runs) {
      rounds += run.rounds;
      sequence_rounds += run.sequence_rounds;
      draft_passes += run.draft_passes;
      draft_steps += run.draft_steps;
      draft_steps_ms += run.draft_steps_ms;
      for (int i = 0; i < kDraftDepthMax; ++i) {
        drafted_at[i] += run.drafted_at[i];
        accepted_at[i] += run.accepted_at[i];
      }
    }
  }
};

SpeculationFigures SpeculationOf(const BenchRow& row, const Sums& sums, const RoundCosts& costs) {
  SpeculationFigures out;
  const auto rounds = static_cast<double>(sums.sequence_rounds);
  for (int depth = 0; depth <= kDraftDepthMax; ++depth) {
    const double share = static_cast<double>(RoundsOfDepth(sums.sequence_rounds, sums.drafted_at, depth)) / rounds;
    out.depth += share * depth;
    if (share > 0) out.verify_ms += share * costs.VerifyMs(depth);
    if (depth > 0) out.accepted += static_cast<double>(sums.accepted_at[depth - 1]) / rounds;
  }
  out.passes = static_cast<double>(sums.draft_passes) / static_cast<double>(sums.rounds);
  out.plain_ms = costs.VerifyMs(0);
  out.draft_ms = costs.DraftMs();
  out.measured = Median(row, &Measurement::decode_tokens_per_s) /
                 Median(costs.verify.front().row, &Measurement::decode_tokens_per_s);
  return out;
}

double RoundBytes(const BenchRow& row, const Roofline& roofline) {
  return roofline.RoundBytes(row.point, row.runs.front().experts_read);
}

BatchFigures BatchOf(const BenchRow& row, const BenchRow* of_one, const Roofline& roofline) {
  BatchFigures out;
  // Every run decodes the same tokens, and so reads the same experts.
  for (const Traffic::Experts& layer : roofline.traffic.experts) {
    const auto layers = static_cast<double>(roofline.traffic.experts.size());
    out.experts_read += row.runs.front().experts_read[layer.layer] / layers;
    out.experts += layer.count / layers;
  }
  out.round_bytes = RoundBytes(row, roofline);
  out.bytes_tokens_per_s = row.point.batch * roofline.bandwidth.bytes_per_s / out.round_bytes;
  if (roofline.int8_macs_per_s > 0) out.int8_tokens_per_s = roofline.Int8TokensPerSecond();
  if (of_one != nullptr && of_one != &row) {
    out.gain = Median(row, &Measurement::decode_tokens_per_s) / Median(*of_one, &Measurement::decode_tokens_per_s);
    out.gain_by_bytes = row.point.batch * RoundBytes(*of_one, roofline) / out.round_bytes;
  }
  return out;
}

}  // namespace

double Median(const BenchRow& row, double Measurement::*what) {
  std::vector<double> values;
  for (const Measurement& run : row.runs) values.push_back(run.*what);
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double RoundCosts::VerifyMs(int depth) const {
  const auto at = [this](size_t i) { return Median(verify[i].row, &Measurement::round_ms); };
  size_t above = 0;
  while (above < verify.size() && verify[above].depth < depth) ++above;
  if (above < verify.size() && verify[above].depth == depth) return at(above);
  // Depth 0 is always there.
  above = std::min(above, verify.size() - 1);
  if (above == 0) return at(0);
  const double from = verify[above - 1].depth, to = verify[above].depth;
  return at(above - 1) + (at(above) - at(above - 1)) * (depth - from) / (to - from);
}

double RoundCosts::DraftMs() const {
  if (!draft) return 0;
  const Sums sums(*draft);
  return sums.draft_steps_ms / static_cast<double>(sums.draft_steps);
}

RowFigures FiguresOf(const BenchRow& row, const std::vector<BenchRow>& rows, const std::vector<RoundCosts>& costs,
                     const Roofline& roofline) {
  RowFigures out;
  out.prompt_tokens_per_s = Median(row, &Measurement::prompt_tokens_per_s);
  out.decode_tokens_per_s = Median(row, &Measurement::decode_tokens_per_s);
  out.tokens_per_round = Median(row, &Measurement::tokens_per_round);
  out.int8_share = roofline.Int8Share(out.prompt_tokens_per_s);
  const Sums sums(row);
  for (int i = 0; i < kDraftDepthMax && sums.drafted_at[i] > 0; ++i) {
    out.acceptance.push_back(static_cast<double>(sums.accepted_at[i]) / static_cast<double>(sums.drafted_at[i]));
  }
  if (row.mode.depth == 0) {
    const auto of_one = std::find_if(rows.begin(), rows.end(), [&](const BenchRow& other) {
      return other.mode.depth == 0 && other.point.batch == 1 && other.point.context == row.point.context;
    });
    out.batch = BatchOf(row, of_one == rows.end() ? nullptr : &*of_one, roofline);
    return out;
  }
  const auto same =
      std::find_if(costs.begin(), costs.end(), [&](const RoundCosts& c) { return SameWork(c.point, row.point); });
  out.speculation = SpeculationOf(row, sums, *same);
  return out;
}

}  // namespace gantry::engine::cli
