// The default Backend: a round composed from Blocks on the host.
//
// One round = trunk over all rows, sampling and acceptance per sequence, then the MTP layer over the slots that became
// known, then drafts for the next round. Rollback of recurrent states is a slot switch: every sequence owns 1 + depth
// slots, the verification leaves the state after each of its rows in one of them, and the accepted row's slot becomes
// the current one. Rejected KV entries are overwritten by the next round before anything reads them.
//
// The MTP layer's own cache always equals that of a fresh MTP prefill of the accepted prefix: slots whose following
// token is committed are computed from true hidden states in the round that commits it, whatever was drafted there
// before.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/backend.h"
#include "engine/backend/blocks.h"

namespace gantry::engine {

struct ComposedOptions {
  int max_sequences = 1;
  int max_rows = 256;       // rows of one round: prefill chunks + (1 + drafts) per decoding sequence
  int draft_depth_max = 0;  // > 0 needs an MTP layer; the MTP cache is kept up from the first chunk on
  int vocab_used = 0;       // 0: all rows
};

// What the blocks must be made with.
BlocksLimits LimitsFor(const ComposedOptions& options, int kv_pages, int threads);
int StateSlotsPerSequence(const ComposedOptions& options);

// INVALID_ARGUMENT when options ask for drafts that the model cannot make.
absl::StatusOr<std::unique_ptr<Backend>> MakeComposedBackend(std::unique_ptr<Blocks> blocks,
                                                             const ComposedOptions& options);

}  // namespace gantry::engine
