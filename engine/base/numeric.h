// Stored number types and their exact float32 values.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace gantry::engine {

// Number types of weights: three plain ones and the block types of GGUF, whose layouts engine/format/quant_blocks.cc
// spells out. A row is a whole number of blocks.
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kIQ4_NL,
  kMXFP4,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_XS,
  kNVFP4,
};

struct DTypeInfo {
  DType type;
  const char* name;    // as GGUF and safetensors spell it
  uint32_t ggml_id;    // of the type in a GGUF file
  int block_elements;  // consecutive elements of a row that share scales; 1 for plain types
  int block_bytes;
};

// In the order of DType.
inline constexpr DTypeInfo kDTypes[] = {
    {DType::kF32, "F32", 0, 1, 4},          {DType::kF16, "F16", 1, 1, 2},
    {DType::kBF16, "BF16", 30, 1, 2},       {DType::kQ4_0, "Q4_0", 2, 32, 18},
    {DType::kQ4_1, "Q4_1", 3, 32, 20},      {DType::kQ5_0, "Q5_0", 6, 32, 22},
    {DType::kQ5_1, "Q5_1", 7, 32, 24},      {DType::kQ8_0, "Q8_0", 8, 32, 34},
    {DType::kIQ4_NL, "IQ4_NL", 20, 32, 18}, {DType::kMXFP4, "MXFP4", 39, 32, 17},
    {DType::kQ2_K, "Q2_K", 10, 256, 84},    {DType::kQ3_K, "Q3_K", 11, 256, 110},
    {DType::kQ4_K, "Q4_K", 12, 256, 144},   {DType::kQ5_K, "Q5_K", 13, 256, 176},
    {DType::kQ6_K, "Q6_K", 14, 256, 210},   {DType::kIQ4_XS, "IQ4_XS", 23, 256, 136},
    {DType::kNVFP4, "NVFP4", 40, 64, 36},
};

inline constexpr const DTypeInfo& InfoOf(DType type) {
  return kDTypes[static_cast<size_t>(type)];
}
inline constexpr const char* DTypeName(DType type) {
  return InfoOf(type).name;
}
// REQUIRES: columns is a multiple of the type's block_elements.
inline constexpr int64_t RowBytes(DType type, int64_t columns) {
  return columns / InfoOf(type).block_elements * InfoOf(type).block_bytes;
}

inline float Bf16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 31u, mantissa = bits & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  // Subnormal: mantissa * 2^-24, exact in float32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

// Round to nearest, ties to even; beyond 65504 + half a step infinity; NaN stays NaN.
inline uint16_t FloatToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the unit is 2^-24: adding 0.5, whose unit that is, makes the hardware round there.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f));
  }
  const uint32_t rebiased = magnitude - (112u << 23);
  return sign | static_cast<uint16_t>((rebiased + 0xfffu + ((rebiased >> 13) & 1u)) >> 13);
}

}  // namespace gantry::engine
