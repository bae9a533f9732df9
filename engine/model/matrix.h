// A weight matrix as a view into a mapped file, in the type it is stored in.
#pragma once

#include <cstdint>

#include "engine/base/numeric.h"

namespace gantry::engine {

// Row-major [rows, columns], columns contiguous; for block types every row is a whole number of blocks. Does not own
// its bytes. Elements of plain types are aligned; blocks may stand at any address.
struct Matrix {
  DType dtype = DType::kF32;
  int64_t rows = 0;     // output features
  int64_t columns = 0;  // input features
  const void* data = nullptr;
  // Every element is the stored one times this. 1 except in NVFP4 files that carry a scale beside the tensor.
  float scale = 1.0f;

  int64_t row_bytes() const { return RowBytes(dtype, columns); }
  int64_t bytes() const { return rows * row_bytes(); }
  const void* row(int64_t index) const { return static_cast<const char*>(data) + index * row_bytes(); }
  // Rows [first, first + count) as a matrix of their own.
  Matrix Rows(int64_t first, int64_t count) const { return {dtype, count, columns, row(first), scale}; }
};

// out[0, columns) = row `index` as float32, scale included.
void ReadRow(const Matrix& matrix, int64_t index, float* out);

}  // namespace gantry::engine
