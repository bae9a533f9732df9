// Matrices in the order that the packed kernels read (int8_kernels.h, bf16_kernels.h): rows interleaved by 16, the same
// bytes as in the file.
#pragma once

#include <cstdint>

#include "engine/backend/cpu/packed_view.h"

namespace gantry::engine::cpu {

// Bytes of the packed form, the last panel filled up with zero rows.
int64_t PackedBytes(PackedType type, int64_t rows, int64_t columns);

// Packs panels [begin, end) of a row-major matrix of file blocks (docs/models.md, block formats). `out` is the start of
// the whole packed matrix, PackedBytes long. Panels are independent: several threads may pack one matrix.
void PackPanels(PackedType type, const uint8_t* rows_of_blocks, int64_t rows, int64_t columns, int64_t begin,
                int64_t end, uint8_t* out);

// out[0, columns) = one row of a packed matrix as float32: the bits that DecodeRow gives for the row in the file.
void UnpackRow(const PackedView& packed, int64_t row, float* out);

}  // namespace gantry::engine::cpu
