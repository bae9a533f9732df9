#include "engine/spec/ngram.h"

#include <algorithm>

namespace gantry::engine {

NgramMatch FindNgram(absl::Span<const TokenId> ids, int length_min, int length_max, int window, int drafts_max) {
  NgramMatch best;
  const int size = static_cast<int>(ids.size());
  if (size < length_min + 1 || drafts_max < 1) return best;
  const TokenId last = ids[size - 1];
  const int oldest = std::max(0, size - 1 - window);
  int best_end = -1;
  for (int end = size - 2; end >= oldest && best.length < length_max; --end) {
    if (ids[end] != last) continue;
    int length = 1;
    while (length < length_max && length <= end && ids[end - length] == ids[size - 1 - length]) ++length;
    if (length > best.length) {
      best.length = length;
      best_end = end;
    }
  }
  if (best.length < length_min) return {};
  best.continuation = ids.subspan(best_end + 1, drafts_max);
  return best;
}

}  // namespace gantry::engine
