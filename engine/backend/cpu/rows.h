// Activation rows as the kernels read them: float rows whose stride is a multiple of 16 and whose padding stays zero,
// and beside them, where a consumer's weights are block-quantised, the same rows in int8.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/backend/cpu/int8_kernels.h"
#include "engine/backend/cpu/kernels.h"
#include "engine/base/check.h"

namespace gantry::engine::cpu {

class Rows {
 public:
  void Resize(int64_t rows, int64_t columns) {
    columns_ = columns;
    stride_ = PaddedTo16(columns);
    data_.assign(rows * stride_, 0.0f);
    pointers_.resize(rows);
    for (int64_t i = 0; i < rows; ++i) pointers_[i] = data_.data() + i * stride_;
  }

  // A consumer's weights need this form; 0: floats, which are always there. `columns`: what the consumer reads.
  void Require(int block, int64_t columns) {
    if (block == 0) return;
    GANTRY_CHECK(columns <= columns_ && columns % block == 0, "quantised rows are whole blocks");
    Form& form = block == 32 ? by32_ : by256_;
    if (form.columns >= columns) return;
    const auto rows = static_cast<int64_t>(pointers_.size());
    form.columns = columns;
    form.row_bytes = ActivationBytes(block, columns);
    form.blocks.assign(rows * form.row_bytes, 0);
    form.rows.resize(rows);
    for (int64_t i = 0; i < rows; ++i) form.rows[i] = {&form.blocks[i * form.row_bytes]};
  }

  float* row(int64_t i) { return pointers_[i]; }
  float* const* pointers() const { return pointers_.data(); }
  int64_t stride() const { return stride_; }
  const QuantizedRow* quantized(int block) const { return (block == 32 ? by32_ : by256_).rows.data(); }

  // After row i has been written: brings its required forms up to date. Rows may be done by several threads.
  void Quantize(int64_t i, const Int8Kernels& kernels) {
    Quantize(i, kernels, 32, 0, by32_.columns);
    Quantize(i, kernels, 256, 0, by256_.columns);
  }
  // The same for elements [begin, end) of one form; both multiples of `block`. Nothing when nobody requires it.
  void Quantize(int64_t i, const Int8Kernels& kernels, int block, int64_t begin, int64_t end) {
    Form& form = block == 32 ? by32_ : by256_;
    if (end > form.columns) end = form.columns;
    if (begin >= end) return;
    kernels.quantize(pointers_[i] + begin, end - begin, block,
                     &form.blocks[i * form.row_bytes + ActivationBytes(block, begin)]);
  }

 private:
  struct Form {
    int64_t columns = 0;
    int64_t row_bytes = 0;
    std::vector<uint8_t> blocks;  // [rows][row_bytes]
    std::vector<QuantizedRow> rows;
  };
  int64_t columns_ = 0;
  int64_t stride_ = 0;
  std::vector<float> data_;
  std::vector<float*> pointers_;
  Form by32_, by256_;
};

}  // namespace gantry::engine::cpu
