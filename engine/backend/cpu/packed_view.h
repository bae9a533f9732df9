// Weights as the products read them: panels of 16 rows, interleaved when a model is loaded (packed_matrix.h), and the
// forms that they take activations in.
#pragma once

#include <cstdint>

namespace gantry::engine::cpu {

inline constexpr int kPanelRows = 16;

enum class PackedType : uint8_t { kBF16, kQ8_0, kQ4_0, kQ4_1, kQ4_K, kQ5_K, kQ6_K };

// float32; int8 with a scale per 32 or 256 elements (int8_kernels.h); or rounded to bfloat16 (bf16_kernels.h).
enum class ActivationForm : uint8_t { kFloat, kInt8By32, kInt8By256, kBF16 };
inline constexpr int kActivationForms = 4;

inline constexpr ActivationForm FormOf(PackedType type) {
  switch (type) {
    case PackedType::kBF16:
      return ActivationForm::kBF16;
    case PackedType::kQ8_0:
    case PackedType::kQ4_0:
    case PackedType::kQ4_1:
      return ActivationForm::kInt8By32;
    case PackedType::kQ4_K:
    case PackedType::kQ5_K:
    case PackedType::kQ6_K:
      return ActivationForm::kInt8By256;
  }
  return ActivationForm::kFloat;
}

// Elements that cannot be converted one without the other.
inline constexpr int UnitOf(ActivationForm form) {
  switch (form) {
    case ActivationForm::kFloat:
      return 1;
    case ActivationForm::kInt8By32:
      return 32;
    case ActivationForm::kInt8By256:
      return 256;
    case ActivationForm::kBF16:
      return 2;
  }
  return 1;
}

// Elements of one row in one panel block, and the block's bytes.
inline constexpr int BlockElements(PackedType type) {
  return UnitOf(FormOf(type));
}
inline constexpr int64_t PanelBlockBytes(PackedType type) {
  switch (type) {
    case PackedType::kBF16:
      return 16 * 4;
    case PackedType::kQ8_0:
      return 16 * 34;
    case PackedType::kQ4_0:
      return 16 * 18;
    case PackedType::kQ4_1:
      return 16 * 20;
    case PackedType::kQ4_K:
      return 16 * 144;
    case PackedType::kQ5_K:
      return 16 * 176;
    case PackedType::kQ6_K:
      return 16 * 210;
  }
  return 0;
}

struct PackedView {
  const uint8_t* data = nullptr;  // [panels][blocks][PanelBlockBytes], 64-byte aligned
  int64_t rows = 0;
  int64_t columns = 0;  // a multiple of BlockElements
  PackedType type = PackedType::kQ8_0;

  int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  int64_t blocks() const { return columns / BlockElements(type); }
  const uint8_t* panel(int64_t p) const { return data + p * blocks() * PanelBlockBytes(type); }
};

// One activation row in the form that the weights take.
struct ActivationRow {
  const void* data = nullptr;
};

}  // namespace gantry::engine::cpu
