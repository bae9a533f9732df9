// A benchmark's results as table and JSON.
#pragma once

#include <string>
#include <vector>

#include "engine/cli/bench_figures.h"

namespace gantry::engine::cli {

struct BenchReport {
  std::string model, backend, numerics_id, text;
  bool free = false;  // the model wrote what was decoded; else it was forced to be the text
  int64_t weight_bytes = 0;
  int threads = 0;  // as given: 0 is what the machine allows
  Roofline roofline;
  std::vector<BenchRow> rows;  // each with the same number of runs, at least one
  std::vector<RoundCosts> costs;

  void PrintJson() const;
  void PrintTable() const;
};

}  // namespace gantry::engine::cli
