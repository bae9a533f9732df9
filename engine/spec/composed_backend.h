// The default Backend: a round composed from Blocks on the host.
//
// One round = trunk over all rows, sampling and acceptance per sequence, then the MTP layer over what has become known,
// then drafts for the next round. Rollback of recurrent states is a slot switch: a verification leaves the state after
// each of its rows in a slot of its own, the accepted row's slot becomes the sequence's, and the others go back to the
// pool. Rejected KV entries are overwritten by the next round before anything reads them.
//
// The MTP layer's own cache always equals that of a fresh MTP prefill of the accepted prefix: entries are computed from
// true hidden states once their token is committed, whatever was drafted there before. They may wait (HiddenPool): the
// first token of a prompt does not pay for them.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/blocks.h"

namespace gantry::engine {

struct ComposedOptions {
  int max_sequences = 1;
  int max_rows = 256;       // rows of one round: prefill chunks + (1 + drafts) per decoding sequence
  int draft_depth_max = 0;  // ids of one sequence verified beside the first
  int draft_slots = 0;      // state slots that all drafts of one round share; fewer, fewer drafts
  int snapshots = 0;
  bool mtp = false;    // drafts by the model's MTP layer
  int vocab_used = 0;  // 0: all rows
};

// What the blocks must be made with.
BlocksLimits LimitsFor(const ComposedOptions& options, int kv_pages, int threads);

// INVALID_ARGUMENT when options ask for drafts that the model cannot make.
absl::StatusOr<std::unique_ptr<Backend>> MakeComposedBackend(std::unique_ptr<Blocks> blocks, ComposedOptions options);

}  // namespace gantry::engine
