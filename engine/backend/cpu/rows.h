// Activation rows as the kernels read them: float rows whose stride is a multiple of 16 and whose padding stays zero,
// and beside them the same rows in the forms that their consumers' weights take.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/backend/cpu/kernel_set.h"
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

  // A consumer's weights take this form; floats are always there. `columns`: what the consumer reads.
  void Require(ActivationForm form, int64_t columns) {
    if (form == ActivationForm::kFloat) return;
    GANTRY_CHECK(columns <= columns_ && columns % UnitOf(form) == 0, "converted rows are whole blocks");
    Converted& converted = of(form);
    if (converted.columns >= columns) return;
    const auto rows = static_cast<int64_t>(pointers_.size());
    converted.columns = columns;
    converted.row_bytes = ActivationBytes(form, columns);
    converted.bytes.assign(rows * converted.row_bytes, 0);
    converted.rows.resize(rows);
    for (int64_t i = 0; i < rows; ++i) converted.rows[i] = {&converted.bytes[i * converted.row_bytes]};
  }

  float* row(int64_t i) { return pointers_[i]; }
  float* const* pointers() const { return pointers_.data(); }
  int64_t stride() const { return stride_; }
  const ActivationRow* in(ActivationForm form) const { return forms_[static_cast<int>(form)].rows.data(); }

  // After row i has been written: brings its required forms up to date. Rows may be done by several threads.
  void Convert(int64_t i, const KernelSet& kernels) {
    for (int form = 1; form < kActivationForms; ++form) {
      Convert(i, kernels, static_cast<ActivationForm>(form), 0, forms_[form].columns);
    }
  }
  // The same for elements [begin, end) of one form; both multiples of its unit. Nothing when nobody requires it.
  void Convert(int64_t i, const KernelSet& kernels, ActivationForm form, int64_t begin, int64_t end) {
    Converted& converted = of(form);
    if (end > converted.columns) end = converted.columns;
    if (begin >= end) return;
    kernels.Convert(form, pointers_[i] + begin, end - begin,
                    &converted.bytes[i * converted.row_bytes + ActivationBytes(form, begin)]);
  }

 private:
  struct Converted {
    int64_t columns = 0;
    int64_t row_bytes = 0;
    std::vector<uint8_t> bytes;  // [rows][row_bytes]
    std::vector<ActivationRow> rows;
  };
  Converted& of(ActivationForm form) { return forms_[static_cast<int>(form)]; }

  int64_t columns_ = 0;
  int64_t stride_ = 0;
  std::vector<float> data_;
  std::vector<float*> pointers_;
  std::array<Converted, kActivationForms> forms_;  // that of kFloat stays empty
};

}  // namespace gantry::engine::cpu
