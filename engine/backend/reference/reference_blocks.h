// The oracle: every block in plain loops, written to be compared with docs/models.md line by line. Sums run in double,
// activations and caches are float32. No threads, no SIMD, no cleverness; everything fast is tested against this.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/blocks.h"
#include "engine/model/model.h"

namespace gantry::engine {

// What pages and slots of this backend take; known before anything is allocated.
CacheCosts ReferenceCacheCosts(const ModelSpec& spec);

// INVALID_ARGUMENT when the limits cannot hold one sequence.
absl::StatusOr<std::unique_ptr<Blocks>> MakeReferenceBlocks(std::shared_ptr<const Model> model,
                                                            const BlocksLimits& limits);

}  // namespace gantry::engine
