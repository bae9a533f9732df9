#include "engine/format/quant_blocks.h"

#include <cmath>
#include <cstring>

#include "engine/base/check.h"

namespace gantry::engine {
namespace {

// IQ4_NL's and IQ4_XS's sixteen levels.
constexpr int kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// E2M1 values doubled, so that they are integers; the scales of MXFP4 and NVFP4 halve them again.
constexpr int kE2M1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

uint16_t U16(const uint8_t* b) {
  uint16_t value;
  std::memcpy(&value, b, sizeof(value));
  return value;
}
uint32_t U32(const uint8_t* b) {
  uint32_t value;
  std::memcpy(&value, b, sizeof(value));
  return value;
}
float F16(const uint8_t* b) {
  return F16ToFloat(U16(b));
}
int Nibble(uint8_t byte, int high) {
  return byte >> (4 * high) & 15;
}
float Float(int value) {
  return static_cast<float>(value);
}

// One function per type: the block `b` -> its elements. Products of a float16 scale, a sub-scale and a level have at
// most 24 significant bits, so only the last operation of each line rounds.

// 32 elements: low nibbles hold elements 0-15, high nibbles 16-31.

void DecodeQ4_0(const uint8_t* b, float* y) {
  const float d = F16(b);
  for (int j = 0; j < 32; ++j) y[j] = d * Float(Nibble(b[2 + j % 16], j / 16) - 8);
}

void DecodeQ4_1(const uint8_t* b, float* y) {
  const float d = F16(b), m = F16(b + 2);
  for (int j = 0; j < 32; ++j) y[j] = d * Float(Nibble(b[4 + j % 16], j / 16)) + m;
}

// Q5_0 and Q5_1: the fifth bit of element j is bit j of a word.
int FiveBits(const uint8_t* nibbles, uint32_t high_bits, int j) {
  return Nibble(nibbles[j % 16], j / 16) | static_cast<int>(high_bits >> j & 1) << 4;
}

void DecodeQ5_0(const uint8_t* b, float* y) {
  const float d = F16(b);
  const uint32_t high_bits = U32(b + 2);
  for (int j = 0; j < 32; ++j) y[j] = d * Float(FiveBits(b + 6, high_bits, j) - 16);
}

void DecodeQ5_1(const uint8_t* b, float* y) {
  const float d = F16(b), m = F16(b + 2);
  const uint32_t high_bits = U32(b + 4);
  for (int j = 0; j < 32; ++j) y[j] = d * Float(FiveBits(b + 8, high_bits, j)) + m;
}

void DecodeQ8_0(const uint8_t* b, float* y) {
  const float d = F16(b);
  for (int j = 0; j < 32; ++j) y[j] = d * Float(static_cast<int8_t>(b[2 + j]));
}

void DecodeIq4Nl(const uint8_t* b, float* y) {
  const float d = F16(b);
  for (int j = 0; j < 32; ++j) y[j] = d * Float(kNonLinear[Nibble(b[2 + j % 16], j / 16)]);
}

void DecodeMxfp4(const uint8_t* b, float* y) {
  const float d = std::ldexp(1.0f, b[0] - 128);
  for (int j = 0; j < 32; ++j) y[j] = d * Float(kE2M1Doubled[Nibble(b[1 + j % 16], j / 16)]);
}

// 256 elements. n: half of 128, j: run of 32 within it, l: place within the run, g: run within the block.

void DecodeQ2K(const uint8_t* b, float* y) {
  const float d = F16(b + 80), d_min = F16(b + 82);
  for (int e = 0; e < 256; ++e) {
    const int n = e / 128, j = e % 128 / 32, l = e % 32;
    const int q = b[16 + 32 * n + l] >> (2 * j) & 3;
    const uint8_t s = b[8 * n + 2 * j + l / 16];
    y[e] = d * Float((s & 15) * q) - d_min * Float(s >> 4);
  }
}

void DecodeQ3K(const uint8_t* b, float* y) {
  const float d = F16(b + 108);
  const uint8_t* c = b + 96;  // sixteen 6-bit scales: four low bits in c[0, 8), two high bits in c[8, 12)
  for (int e = 0; e < 256; ++e) {
    const int n = e / 128, j = e % 128 / 32, l = e % 32, s = 8 * n + 2 * j + l / 16;
    const int scale = Nibble(c[s % 8], s / 8) | (c[8 + s % 4] >> (2 * (s / 4)) & 3) << 4;
    const int q = b[32 + 32 * n + l] >> (2 * j) & 3;
    const int high = b[l] >> (4 * n + j) & 1;
    y[e] = d * Float((scale - 32) * (q - (high ? 0 : 4)));
  }
}

// Q4_K and Q5_K: scale and minimum of run g, six bits each, from the twelve bytes c.
struct ScaleAndMinimum {
  int scale, minimum;
};
ScaleAndMinimum SixBitPair(const uint8_t* c, int g) {
  if (g < 4) return {c[g] & 63, c[g + 4] & 63};
  return {(c[g + 4] & 15) | (c[g - 4] >> 6) << 4, (c[g + 4] >> 4) | (c[g] >> 6) << 4};
}

void DecodeQ4K(const uint8_t* b, float* y) {
  const float d = F16(b), d_min = F16(b + 2);
  for (int g = 0; g < 8; ++g) {
    const auto [scale, minimum] = SixBitPair(b + 4, g);
    for (int l = 0; l < 32; ++l) {
      const int q = Nibble(b[16 + 32 * (g / 2) + l], g % 2);
      y[32 * g + l] = d * Float(scale * q) - d_min * Float(minimum);
    }
  }
}

void DecodeQ5K(const uint8_t* b, float* y) {
  const float d = F16(b), d_min = F16(b + 2);
  for (int g = 0; g < 8; ++g) {
    const auto [scale, minimum] = SixBitPair(b + 4, g);
    for (int l = 0; l < 32; ++l) {
      const int q = Nibble(b[48 + 32 * (g / 2) + l], g % 2) | (b[16 + l] >> g & 1) << 4;
      y[32 * g + l] = d * Float(scale * q) - d_min * Float(minimum);
    }
  }
}

void DecodeQ6K(const uint8_t* b, float* y) {
  const float d = F16(b + 208);
  for (int e = 0; e < 256; ++e) {
    const int n = e / 128, j = e % 128 / 32, l = e % 32;
    const int q = (Nibble(b[64 * n + 32 * (j % 2) + l], j / 2) | (b[128 + 32 * n + l] >> (2 * j) & 3) << 4) - 32;
    y[e] = d * Float(static_cast<int8_t>(b[192 + 8 * n + 2 * j + l / 16]) * q);
  }
}

void DecodeIq4Xs(const uint8_t* b, float* y) {
  const float d = F16(b);
  const uint16_t scales_high = U16(b + 2);
  for (int g = 0; g < 8; ++g) {
    const int scale = (Nibble(b[4 + g / 2], g % 2) | (scales_high >> (2 * g) & 3) << 4) - 32;
    for (int l = 0; l < 32; ++l) {
      y[32 * g + l] = d * Float(scale * kNonLinear[Nibble(b[8 + 16 * g + l % 16], l / 16)]);
    }
  }
}

// Half of an unsigned E4M3 number; 0x7f, which would be NaN, is zero.
float HalfUe4M3(uint8_t x) {
  const int exponent = x >> 3 & 15, mantissa = x & 7;
  if (x == 0 || x == 0x7f) return 0;
  if (exponent == 0) return std::ldexp(Float(mantissa), -10);
  return std::ldexp(Float(8 + mantissa), exponent - 11);
}

// 64 elements in four runs of 16, low nibbles first within each.
void DecodeNvfp4(const uint8_t* b, float* y) {
  for (int e = 0; e < 64; ++e) {
    const int s = e / 16, t = e % 16;
    y[e] = HalfUe4M3(b[s]) * Float(kE2M1Doubled[Nibble(b[4 + 8 * s + t % 8], t / 8)]);
  }
}

void (*BlockDecoder(DType type))(const uint8_t*, float*) {
  switch (type) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return nullptr;
    case DType::kQ4_0:
      return DecodeQ4_0;
    case DType::kQ4_1:
      return DecodeQ4_1;
    case DType::kQ5_0:
      return DecodeQ5_0;
    case DType::kQ5_1:
      return DecodeQ5_1;
    case DType::kQ8_0:
      return DecodeQ8_0;
    case DType::kIQ4_NL:
      return DecodeIq4Nl;
    case DType::kMXFP4:
      return DecodeMxfp4;
    case DType::kQ2_K:
      return DecodeQ2K;
    case DType::kQ3_K:
      return DecodeQ3K;
    case DType::kQ4_K:
      return DecodeQ4K;
    case DType::kQ5_K:
      return DecodeQ5K;
    case DType::kQ6_K:
      return DecodeQ6K;
    case DType::kIQ4_XS:
      return DecodeIq4Xs;
    case DType::kNVFP4:
      return DecodeNvfp4;
  }
  return nullptr;
}

constexpr bool TableFollowsDType() {
  for (size_t i = 0; i < std::size(kDTypes); ++i) {
    if (kDTypes[i].type != static_cast<DType>(i)) return false;
  }
  return std::size(kDTypes) == static_cast<size_t>(DType::kNVFP4) + 1;
}
static_assert(TableFollowsDType());

}  // namespace

std::optional<DType> DTypeNamed(absl::string_view name) {
  for (const DTypeInfo& info : kDTypes) {
    if (name == info.name) return info.type;
  }
  return std::nullopt;
}

std::optional<DType> DTypeOfGgmlId(uint32_t id) {
  for (const DTypeInfo& info : kDTypes) {
    if (id == info.ggml_id) return info.type;
  }
  return std::nullopt;
}

void DecodeRow(DType type, const void* row, int64_t columns, float* out) {
  const DTypeInfo& info = InfoOf(type);
  GANTRY_CHECK(columns % info.block_elements == 0, "rows are whole blocks");
  const auto* bytes = static_cast<const uint8_t*>(row);
  switch (type) {
    case DType::kF32:
      std::memcpy(out, bytes, columns * sizeof(float));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < columns; ++i) out[i] = F16ToFloat(U16(bytes + 2 * i));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < columns; ++i) out[i] = Bf16ToFloat(U16(bytes + 2 * i));
      return;
    default:
      break;
  }
  const auto decode = BlockDecoder(type);
  for (int64_t i = 0; i < columns; i += info.block_elements, bytes += info.block_bytes) decode(bytes, out + i);
}

}  // namespace gantry::engine
