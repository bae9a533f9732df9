// The CPU backend: threads, SIMD, BF16 weights as stored, float32 activations, KV cache and states.
//
// Numerics. One accumulation contract for every weight type here, obeyed bit for bit by every kernel (scalar, AVX2,
// AVX-512; one row or many; any number of threads), see dot.h. Attention folds KV in 64-token pages at fixed positions;
// experts add in slot order; the delta net runs the recurrent rule for prompt and decoding alike. So the bits of a row
// depend on that row alone. Against the reference backend logits differ by at most kCpuLogitsBound on the models of the
// tests.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/blocks.h"
#include "engine/model/model.h"

namespace gantry::engine {

inline constexpr double kCpuLogitsBound = 2e-3;

// What pages and slots of this backend take; known before anything is allocated.
CacheCosts CpuCacheCosts(const ModelSpec& spec, KvType kv_type);

// INVALID_ARGUMENT when the limits cannot hold one sequence, or when GANTRY_CPU_ISA names a path that this machine
// lacks.
absl::StatusOr<std::unique_ptr<Blocks>> MakeCpuBlocks(std::shared_ptr<const Model> model, const BlocksLimits& limits);

}  // namespace gantry::engine
