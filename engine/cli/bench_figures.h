// What a benchmark's measurements say: medians, and how far they are from what is possible.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/cli/bench_roofline.h"
#include "engine/cli/bench_run.h"
#include "engine/spec/spec_mode.h"

namespace gantry::engine::cli {

// One way of speculating at one batch and context.
struct BenchRow {
  BenchPoint point;
  SpecMode mode;
  std::vector<ReplayRun> sequences;  // what it runs
  int decode_tokens = 0;
  bool repeats = false;           // the text is shorter than a sequence, and begins again
  std::vector<Measurement> runs;  // at least one
  uint64_t hash = 0;
};

// Rounds that were run only to learn what they cost, at one batch and context, with drafts that are all right. Each
// has what a round has: scheduling, sampling, sinks.
struct RoundCosts {
  BenchPoint point;
  struct Verify {
    int depth = 0;  // of every sequence; 0 is a plain round
    BenchRow row;   // drafts cost nothing
  };
  std::vector<Verify> verify;     // by ascending depth
  std::optional<BenchRow> draft;  // the MTP layer drafts at least two ids a sequence

  // At depths between measured ones on a line between those, beyond the last on a line through the last two.
  double VerifyMs(int depth) const;
  // One step of the MTP layer for every sequence, with its head and the choice; 0 where it does not draft.
  double DraftMs() const;
};

// Terms of ideal = (1 + accepted) t(1) / (t_verify + passes t_draft), each of them measured: the speed-up when nothing
// but verifying and drafting takes time.
struct SpeculationFigures {
  double depth = 0;     // drafts verified a round and sequence, mean
  double accepted = 0;  // of those
  double passes = 0;    // of the MTP layer a round, mean: `depth` when it alone drafts, less where n-grams do
  double plain_ms = 0, verify_ms = 0, draft_ms = 0;
  double measured = 0;  // speed over that without speculation

  double ideal() const { return (1 + accepted) * plain_ms / (verify_ms + passes * draft_ms); }
};

// A round of one row a sequence.
struct BatchFigures {
  double experts_read = 0, experts = 0;       // distinct ones of a layer that has any, mean; and how many it has
  double round_bytes = 0;                     // with the experts that were read
  double bytes_tokens_per_s = 0;              // at the machine's read bandwidth
  std::optional<double> int8_tokens_per_s;    // at its int8 peak
  std::optional<double> gain, gain_by_bytes;  // over the row of one sequence, when there is one
};

struct RowFigures {
  double prompt_tokens_per_s = 0, decode_tokens_per_s = 0, tokens_per_round = 0;
  double int8_share = 0;                          // of the prompt
  std::vector<double> acceptance;                 // by depth - 1, over all runs; as deep as drafts went
  std::optional<BatchFigures> batch;              // speculation off
  std::optional<SpeculationFigures> speculation;  // else
};

// The row's figures; `rows` hold those that it is compared with, `costs` its batch and context when it speculates.
RowFigures FiguresOf(const BenchRow& row, const std::vector<BenchRow>& rows, const std::vector<RoundCosts>& costs,
                     const Roofline& roofline);

double Median(const BenchRow& row, double Measurement::*what);

}  // namespace gantry::engine::cli
