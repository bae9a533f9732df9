// The CPU backend: threads, SIMD, weights as stored (block types multiplied in int8, BF16 with activations in
// bfloat16), other activations in float32, a KV cache of float32, float16 or int8, float32 states.
//
// Numerics. Each part has an accumulation contract, obeyed bit for bit by every kernel (scalar, AVX2, AVX-512; one row
// or many; any number of threads): kernels.h for floats, norms, softmax and the delta net, int8_kernels.h for
// block-quantised weights, bf16_kernels.h for BF16, kv_cache.h and attention.h for what is cached and in which order it
// is folded. Experts add in slot order; the delta net runs the recurrent rule for prompt and decoding alike. So the
// bits of a row depend on that row alone. numerics_id names the version of these contracts and the KV type; it does not
// name the instruction set, which makes no difference.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/backend/blocks.h"
#include "engine/model/model.h"

namespace gantry::engine {

// What pages and slots of this backend take; known before anything is allocated.
CacheCosts CpuCacheCosts(const ModelSpec& spec, KvType kv_type);

// INVALID_ARGUMENT when the limits cannot hold one sequence, or when GANTRY_CPU_ISA names a path that this machine
// lacks.
absl::StatusOr<std::unique_ptr<Blocks>> MakeCpuBlocks(std::shared_ptr<const Model> model, const BlocksLimits& limits);

}  // namespace gantry::engine
