#include "gateway/api/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"

namespace gantry::gateway {

std::string StopMatcher::Push(absl::string_view text) {
  if (matched_) return "";
  if (stops_.empty()) return std::string(text);
  held_.append(text.data(), text.size());
  size_t best_end = std::string::npos;
  size_t best_begin = 0;
  for (const std::string& stop : stops_) {
    size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    size_t end = begin + stop.size();
    if (end < best_end || (end == best_end && begin < best_begin)) {
      best_end = end;
      best_begin = begin;
    }
  }
  if (best_end != std::string::npos) {
    matched_ = true;
    std::string before = held_.substr(0, best_begin);
    held_.clear();
    return before;
  }
  // The longest end of the text that begins a stop string stays.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (absl::EndsWith(held_, absl::string_view(stop).substr(0, n))) {
        keep = n;
        break;
      }
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopMatcher::Flush() {
  return matched_ ? "" : std::exchange(held_, "");
}

}  // namespace gantry::gateway
