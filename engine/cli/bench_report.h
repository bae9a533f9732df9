// A benchmark's results as table and JSON.
#pragma once

#include <string>
#include <vector>

#include "engine/cli/bench_roofline.h"
#include "engine/cli/bench_run.h"

namespace gantry::engine::cli {

struct BenchRow {
  BenchPoint point;
  std::vector<ReplayRun> sequences;  // what it runs
  bool repeats = false;              // the text is shorter than a sequence, and begins again
  std::vector<Measurement> runs;
  uint64_t hash = 0;
};

struct BenchReport {
  std::string model, backend, numerics_id, text;
  bool free = false;  // the model wrote what was decoded; else it was forced to be the text
  int64_t weight_bytes = 0;
  int threads = 0;  // as given: 0 is what the machine allows
  Roofline roofline;
  std::vector<BenchRow> rows;  // each with the same number of runs, at least one

  void PrintJson() const;
  void PrintTable() const;
};

}  // namespace gantry::engine::cli
