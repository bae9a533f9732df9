// Drafts from the sequence's own past: what followed the last time its latest ids occurred.
#pragma once

#include "absl/types/span.h"
#include "engine/base/token_id.h"

namespace gantry::engine {

struct NgramMatch {
  int length = 0;                          // ids that agree, 0: none
  absl::Span<const TokenId> continuation;  // what followed, at most as many as asked for; points into `ids`
};

// The longest earlier occurrence of the ids at the end of `ids` within the last `window`, the latest of equally long
// ones; lengths count up to `length_max`. Where the occurrence overlaps the end, its continuation goes on into it.
NgramMatch FindNgram(absl::Span<const TokenId> ids, int length_min, int length_max, int window, int drafts_max);

}  // namespace gantry::engine
