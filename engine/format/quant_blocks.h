// Rows of weights as stored <-> float32: the plain types and the 14 block types of GGUF.
//
// Decoding is exact: every result is the block formula's real value rounded once to float32. Encoding rounds each
// element to the nearest step of a scale taken from the largest element (and, in the K types, scales to the nearest of
// their own steps); it makes files for tests and benchmarks and does not search for better scales. Stateless; any
// thread.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "engine/base/numeric.h"

namespace gantry::engine {

// The type of this name ("F32", "Q4_K", ...), of this ggml id; nothing when it is none of ours.
std::optional<DType> DTypeNamed(absl::string_view name);
std::optional<DType> DTypeOfGgmlId(uint32_t id);

// out[0, columns) = the row that starts at `row`. `row` needs no alignment. REQUIRES: columns is a multiple of the
// type's block_elements.
void DecodeRow(DType type, const void* row, int64_t columns, float* out);

// Types that EncodeRow writes: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q4_K, Q5_K, Q6_K.
bool CanEncode(DType type);
// Writes RowBytes(type, columns) bytes. REQUIRES: CanEncode(type), whole blocks, finite values.
void EncodeRow(DType type, const float* values, int64_t columns, void* row);

}  // namespace gantry::engine
