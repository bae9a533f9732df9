// What a benchmark feeds the engine.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/token_id.h"

namespace gantry::engine::cli {

struct BenchText {
  std::vector<TokenId> ids;
  int vocab_used = 0;  // as in EngineOptions
  std::string source;  // for the report

  // `count` ids of one sequence from its id `from` on; sequences of one batch differ, the same number is the same ids
  // always. Wraps around, so that a sequence of more than ids.size() ids repeats itself.
  std::vector<TokenId> Ids(int sequence, int from, int count) const;
};

// The text in the file `text_path`, or a built-in passage when it is empty, in the model's own tokens; random ids below
// vocab_rows when the model has no tokenizer. INVALID_ARGUMENT when the text has no tokens.
absl::StatusOr<BenchText> ReadBenchText(const std::string& model_path, const std::string& text_path, int vocab_rows);

}  // namespace gantry::engine::cli
