#include "engine/model/matrix.h"

#include "engine/format/quant_blocks.h"

namespace gantry::engine {

void ReadRow(const Matrix& matrix, int64_t index, float* out) {
  DecodeRow(matrix.dtype, matrix.row(index), matrix.columns, out);
  if (matrix.scale == 1.0f) return;
  for (int64_t i = 0; i < matrix.columns; ++i) out[i] *= matrix.scale;
}

}  // namespace gantry::engine
