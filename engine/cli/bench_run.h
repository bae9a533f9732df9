// One measurement on a running engine.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/cli/bench_text.h"
#include "engine/engine.h"
#include "engine/spec/replay.h"

namespace gantry::engine::cli {

// What is measured: `batch` sequences of `context` prompt tokens each, then decoding together.
struct BenchPoint {
  std::string spec;  // as in SpecOptions
  int batch = 1;
  int context = 512;
};

// Whether two rows do the same work, however they speculate.
inline bool SameWork(const BenchPoint& a, const BenchPoint& b) {
  return a.batch == b.batch && a.context == b.context;
}

using CountsByDepth = std::array<int64_t, kDraftDepthMax>;  // at depth - 1

// Of `sequence_rounds`, those that verified exactly `depth` drafts.
inline int64_t RoundsOfDepth(int64_t sequence_rounds, const CountsByDepth& drafted_at, int depth) {
  const int64_t as_deep = depth == 0 ? sequence_rounds : drafted_at[depth - 1];
  return as_deep - (depth < kDraftDepthMax ? drafted_at[depth] : 0);
}

struct Measurement {
  double prompt_tokens_per_s = 0;  // of all prompts at once, to the last first token
  double decode_tokens_per_s = 0;  // of all sequences, from the moment that every one has its first token
  double tokens_per_round = 0;     // of one sequence
  // While decoding:
  int64_t rounds = 0;
  double round_ms = 0;          // mean, all that the engine does between rounds included
  int64_t sequence_rounds = 0;  // of all sequences together: each commits one id and its accepted drafts
  CountsByDepth drafted_at = {}, accepted_at = {};
  int64_t draft_passes = 0, draft_steps = 0;  // as in EngineStats
  double draft_steps_ms = 0;
  std::vector<double> experts_read;  // distinct ones of a round, mean, by layer of the trunk
};

// The sequences of a point: prompts of `text` and, unless `free`, what follows them there as outputs to force.
std::vector<ReplayRun> SequencesOf(const BenchText& text, const BenchPoint& point, int decode_tokens, bool free);

// All sequences at once, `decode_tokens` ids each: their outputs where they have some, else what the model chooses.
// Nothing comes from the prefix cache. REQUIRES: prompts of one length.
absl::StatusOr<Measurement> Measure(Engine& engine, const std::vector<ReplayRun>& sequences, int decode_tokens);

// The same with logprobs: what came out, and an FNV-1a hash over ids and float32 bits of their logprobs.
struct Outputs {
  std::vector<ReplayRun> runs;
  uint64_t hash = 0;
  Measurement measured;
};
absl::StatusOr<Outputs> Record(Engine& engine, const std::vector<ReplayRun>& sequences, int decode_tokens);

}  // namespace gantry::engine::cli
