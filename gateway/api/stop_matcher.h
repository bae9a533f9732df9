// Stop strings over text that comes in pieces: a match may begin in one piece and end in another, and nothing that may
// still become a match is let out. The result does not depend on where the pieces end: the match that is complete first
// wins, of two that end together the one that begins first.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace gantry::gateway {

class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Text that is certainly before any stop string. After a match: the text before it, then always nothing.
  std::string Push(absl::string_view text);
  // What was held back, at the end of the text.
  std::string Flush();
  bool matched() const { return matched_; }
  size_t pending() const { return held_.size(); }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool matched_ = false;
};

}  // namespace gantry::gateway
