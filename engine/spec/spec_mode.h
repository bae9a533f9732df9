// What a user may ask of speculation, read from its one string.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/spec/replay.h"

namespace gantry::engine {

struct SpecMode {
  std::string name;              // as it was asked for
  int depth = 0;                 // ids of one sequence verified beside the first, at most
  bool mtp = false;              // drafts by the MTP layer
  bool ngram = false;            // drafts from the sequence's own past, where its end occurred before
  bool adaptive = false;         // depth and drafter by measured acceptance and cost, down to none
  std::optional<Replay> replay;  // drafts are these in place of those that the MTP layer makes, or come for nothing

  // "off" | "auto" | "mtp:K" | "ngram" | "ngram:K" | "ngram+mtp:K" | "replay:FILE,accept=P1/P2/...", K in [1, 5].
  // INVALID_ARGUMENT for anything else, and for MTP in a model without that layer.
  static absl::StatusOr<SpecMode> Parse(absl::string_view text, bool has_mtp);
};

}  // namespace gantry::engine
