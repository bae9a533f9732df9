// Drafts from a recorded run, right as often as asked: for depth control, rollback tests and benchmarks on models whose
// own MTP layer predicts nothing (random weights).
//
// The file is JSON: {"runs": [{"prompt": [ids], "output": [ids]}, ...]}. The draft at depth j (from 1) is the recorded
// id with the probability that makes a share P_j of all drafts at that depth end up accepted, else a wrong one. What is
// drawn depends on position and depth alone.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/token_id.h"

namespace gantry::engine {

struct ReplayRun {
  std::vector<TokenId> prompt, output;
};

class Replay {
 public:
  // "FILE,accept=P1/P2/P3" with 1 >= P1 >= P2 >= ... > 0. Depth is the number of shares.
  static absl::StatusOr<Replay> Load(absl::string_view text);
  Replay(std::vector<ReplayRun> runs, std::vector<double> accept);

  int depth() const { return static_cast<int>(given_.size()); }
  // The run whose prompt `ids` starts with, the longest of several; null when there is none.
  const ReplayRun* Find(absl::Span<const TokenId> ids) const;
  // The draft at `depth` (from 1) for an absolute position of the run; -1 beyond its end.
  TokenId Draft(const ReplayRun& run, int position, int depth) const;

 private:
  std::vector<ReplayRun> runs_;
  std::vector<double> given_;  // probability of being right at depth j + 1 given that the depths before were
};

}  // namespace gantry::engine
